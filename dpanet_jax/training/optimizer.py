"""SGD as PyTorch computes it, or LARS for large batches; the poly schedule and a faster head."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dpanet_jax.config import ConfigError
from dpanet_jax.training.options import Optimizer, Training

# The number of updates made so far → the learning rate of the next one.
Schedule: TypeAlias = Callable[[ArrayLike], jax.Array]


def poly_schedule(lr: float, total_steps: int, power: float = 0.9, warmup_steps: int = 0) -> Schedule:
    """lr · (1 − step/total)^power at every step (section 4.1.2 of the paper): step → lr.

    The first update uses `lr` itself and the last one lr · (1/total)^power. With `warmup_steps` > 0
    the rate first rises linearly to the poly curve, which is the same curve as without.
    """

    def schedule(step: ArrayLike) -> jax.Array:
        # As JAX's default float: divided as it is, an int32 count would stay in float32 under x64.
        step = jnp.asarray(step, jnp.result_type(float))
        rate = lr * (1 - step / total_steps) ** power
        if warmup_steps:
            rate = rate * jnp.minimum(1.0, (step + 1) / warmup_steps)
        return rate

    return schedule


def schedule_for(options: Optimizer, batch_size: int, total_steps: int) -> Schedule:
    """The poly schedule that the options describe, for a run of this batch size and length."""
    lr = scaled_lr(options.lr, batch_size, options.lr_batch_size)
    return poly_schedule(lr, total_steps, options.power, options.warmup_steps)


def sgd(schedule: Schedule, options: Optimizer) -> optax.GradientTransformation:
    """torch.optim.SGD with two parameter groups, for a tree with "backbone" at its top level.

    g = gradient + weight_decay · p;  v = momentum · v + g;  p = p − lr(step) · m · v, where m is 1 in
    the backbone and `head_lr_multiplier` in everything else. Decay is on every parameter. The rate is
    the schedule's, whatever `options.lr`.
    """

    return optax.chain(
        optax.add_decayed_weights(options.weight_decay),
        optax.trace(decay=options.momentum),
        optax.masked(optax.scale(options.head_lr_multiplier), _heads),
        optax.scale_by_learning_rate(schedule),
    )


def lars(schedule: Schedule, options: Optimizer) -> optax.GradientTransformation:
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg, arXiv 1708.03888), as optax computes it.

    For each kernel g = gradient + weight_decay · p, and its own rate is trust_coefficient · ‖p‖ / ‖g‖ (where
    one of the norms is 0: 1). Biases and batch norm's scales and biases, which have one axis, and scalars
    have no decay and no rate of their own. Then v = momentum · v + lr(step) · rate · g;  p = p − m · v, with
    m as in `sgd`. The paper has ‖gradient‖ + weight_decay · ‖p‖ where optax has ‖g‖.
    """

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)

    adapted = optax.lars(
        schedule,
        weight_decay=options.weight_decay,
        weight_decay_mask=kernels,
        trust_coefficient=options.trust_coefficient,
        trust_ratio_mask=kernels,
        momentum=options.momentum,
    )
    return optax.chain(adapted, optax.masked(optax.scale(options.head_lr_multiplier), _heads))


def make_optimizer(schedule: Schedule, options: Optimizer) -> optax.GradientTransformation:
    """The optimizer that the options name."""
    return {"sgd": sgd, "lars": lars}[options.name](schedule, options)


def _heads(params: dict[str, Any]) -> dict[str, Any]:
    """True for every parameter outside of "backbone"."""
    return {
        name: jax.tree.map(lambda _, head=name != "backbone": head, branch) for name, branch in params.items()
    }


def scaled_lr(lr: float, batch_size: int, lr_batch_size: int) -> float:
    """The rate for this batch size, linear in it where `lr_batch_size` is not 0."""
    return lr * batch_size / lr_batch_size if lr_batch_size else lr


def total_steps(options: Training, num_examples: int) -> int:
    """Optimizer steps in all: `steps` where it is not 0, else `epochs` of whole batches.

    Raises ConfigError where the training images do not fill one batch.
    """
    if options.steps:
        return options.steps
    if num_examples < options.batch_size:
        raise ConfigError(
            f"config.training.batch_size={options.batch_size} is more than the {num_examples} training"
            " images: lower it, or set config.training.steps"
        )
    return num_examples // options.batch_size * options.epochs
