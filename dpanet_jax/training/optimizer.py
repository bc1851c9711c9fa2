"""SGD and AdamW as PyTorch computes them, LARS for large batches; schedules, and rates by layer."""

import re
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

    return _falling(lambda part: lr * (1 - part) ** power, total_steps, warmup_steps)


def cosine_schedule(lr: float, total_steps: int, warmup_steps: int = 0) -> Schedule:
    """lr · (1 + cos(π · step/total)) / 2 at every step: step → lr. The warm-up is as in `poly_schedule`.

    Source: Loshchilov and Hutter, arXiv 1608.03983, equation 5, without restarts and with a least rate of 0;
    torch.optim.lr_scheduler.CosineAnnealingLR with T_max = total_steps.
    """
    return _falling(lambda part: lr * (1 + jnp.cos(jnp.pi * part)) / 2, total_steps, warmup_steps)


def _falling(curve: Callable[[jax.Array], jax.Array], total_steps: int, warmup_steps: int) -> Schedule:
    """The schedule whose rate is `curve` of the part of the steps that is done, in [0, 1]."""

    def schedule(step: ArrayLike) -> jax.Array:
        # As JAX's default float: divided as it is, an int32 count would stay in float32 under x64.
        step = jnp.asarray(step, jnp.result_type(float))
        rate = curve(step / total_steps)
        if warmup_steps:
            rate = rate * jnp.minimum(1.0, (step + 1) / warmup_steps)
        return rate

    return schedule


def schedule_for(options: Optimizer, batch_size: int, total_steps: int) -> Schedule:
    """The schedule that the options describe, for a run of this batch size and length."""
    lr = scaled_lr(options.lr, batch_size, options.lr_batch_size)
    if options.schedule == "cosine":
        return cosine_schedule(lr, total_steps, options.warmup_steps)
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


def adamw(schedule: Schedule, options: Optimizer) -> optax.GradientTransformation:
    """torch.optim.AdamW with two parameter groups, for a tree with "backbone" at its top level.

    m = beta1 · m + (1 − beta1) · gradient;  v = beta2 · v + (1 − beta2) · gradient²;  both start at 0, and
    are divided by 1 − beta^(updates made) for use.  p = p − k · lr(step) · (m / (√v + eps) + weight_decay ·
    p), where k is 1 in the backbone and `head_lr_multiplier` in everything else. Decay is on every parameter.

    Source: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2. The rate is on the decay too, as PyTorch has
    it.
    """
    return optax.chain(
        optax.scale_by_adam(options.beta1, options.beta2, options.eps),
        optax.add_decayed_weights(options.weight_decay),
        optax.masked(optax.scale(options.head_lr_multiplier), _heads),
        optax.scale_by_learning_rate(schedule),
    )


def make_optimizer(schedule: Schedule, options: Optimizer) -> optax.GradientTransformation:
    """The optimizer that the options name, with their rates by layer."""
    optimizer = {"sgd": sgd, "lars": lars, "adamw": adamw}[options.name](schedule, options)
    if options.layer_decay == 1:
        return optimizer
    return optax.chain(optimizer, scale_by_layer(options.layer_decay))


# What is not in the backbone comes after the stem and its four layers.
_HEADS_ID = 5


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Updates times decay^(5 − id): id is 0 in the backbone's stem, n in its layer n, and 5 outside of it.

    Its `init` raises ConfigError where the backbone has no modules layer1 … layer4. Source: layer-wise decay
    of Clark et al., arXiv 2003.10555, with the stages of a convolutional network for layers, as
    mmsegmentation's LearningRateDecayOptimizerConstructor counts them where decay_type is "stage_wise".
    """

    def init(params: dict[str, Any]) -> optax.EmptyState:
        found = {_layer_id(name) for name in params.get("backbone", {})}
        if not found >= set(range(1, _HEADS_ID)):
            raise ConfigError(
                f"config.optimizer.layer_decay={decay!r}: the network has no backbone with modules named"
                " layer1 to layer4 (or layer1_0 and so on); leave it at its default, 1"
            )
        return optax.EmptyState()

    def scale(layer: Any, by: float) -> Any:
        return jax.tree.map(lambda update: by * update, layer)

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        backbone = {
            name: scale(layer, decay ** (_HEADS_ID - _layer_id(name)))
            for name, layer in updates["backbone"].items()
        }
        return {**updates, "backbone": backbone}, state

    return optax.GradientTransformation(init, update)


def _layer_id(name: str) -> int:
    """Of a module of the backbone, by its name: n for layer n or one of its blocks, 0 for the stem."""
    of_layer = re.fullmatch(r"layer([1-4])(_.*)?", name)
    return int(of_layer[1]) if of_layer else 0


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
