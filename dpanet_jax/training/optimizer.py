"""SGD as PyTorch computes it, with the poly schedule and a faster head."""

import jax
import jax.numpy as jnp
import optax

from dpanet_jax.config import ConfigError


def poly_schedule(lr: float, total_steps: int, power: float = 0.9, warmup_steps: int = 0):
    """lr · (1 − step/total)^power at every step (section 4.1.2 of the paper): step → lr.

    The first update uses `lr` itself and the last one lr · (1/total)^power. With `warmup_steps` > 0
    the rate first rises linearly to the poly curve, which is the same curve as without.
    """

    def schedule(step):
        # As JAX's default float: divided as it is, an int32 count would stay in float32 under x64.
        step = jnp.asarray(step, jnp.result_type(float))
        rate = lr * (1 - step / total_steps) ** power
        if warmup_steps:
            rate = rate * jnp.minimum(1.0, (step + 1) / warmup_steps)
        return rate

    return schedule


def sgd(
    schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    head_lr_multiplier: float = 10.0,
) -> optax.GradientTransformation:
    """torch.optim.SGD with two parameter groups, for a tree with "backbone" at its top level.

    g = gradient + weight_decay · p;  v = momentum · v + g;  p = p − lr(step) · m · v, where m is 1 in
    the backbone and `head_lr_multiplier` in everything else. Decay is on every parameter.
    """

    def heads(params):
        return {
            name: jax.tree.map(lambda _, head=name != "backbone": head, branch)
            for name, branch in params.items()
        }

    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.masked(optax.scale(head_lr_multiplier), heads),
        optax.scale_by_learning_rate(schedule),
    )


def scaled_lr(lr: float, batch_size: int, lr_batch_size: int) -> float:
    """The rate for this batch size, linear in it where `lr_batch_size` is not 0."""
    return lr * batch_size / lr_batch_size if lr_batch_size else lr


def total_steps(num_examples: int, batch_size: int, epochs: int, steps: int = 0) -> int:
    """Optimizer steps in all: `steps` where it is not 0, else `epochs` of whole batches."""
    if steps:
        return steps
    if num_examples < batch_size:
        raise ConfigError(
            f"config.training.batch_size={batch_size} is more than the {num_examples} training images:"
            " lower it, or set config.training.steps"
        )
    return num_examples // batch_size * epochs
