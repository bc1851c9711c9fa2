"""The fewest bytes that a training step must move, by the shapes of its network alone."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dpanet_jax.training.state import TrainState
from dpanet_jax.training.traced import equations


@dataclasses.dataclass(frozen=True)
class Least:
    """Bytes on each device, without padding.

    products: each convolution and matrix product of the network and of its gradients reads its operands once
    and writes its result once. Everything between two products is taken to be part of one of them, and
    nothing to stay on the chip from one product to the next. loss: the network's outputs are read once, their
    gradients written once, the labels read once. state: parameters and momenta are read and written once,
    gradients written and read once by the optimizer. image: the uint8 image is read once.
    """

    products: int
    loss: int
    state: int
    image: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.products + self.loss + self.state + self.image


def least(model: Any, state: TrainState, batch: Mapping[str, Any], devices: int) -> Least:
    """Of one step of `lower_step`'s state and batch, whose images `devices` share."""
    image = batch["image"]
    images = jax.ShapeDtypeStruct((image.shape[0] // devices, *image.shape[1:]), model.dtype)

    def outputs(params: Any, statistics: Any, images: jax.Array) -> Any:
        variables = {"params": params, "batch_stats": statistics}
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, images, train=True, mutable="batch_stats", rngs=rngs)[0]

    def gradients(params: Any, statistics: Any, images: jax.Array) -> Any:
        found, backward = jax.vjp(lambda params: outputs(params, statistics, images), params)
        return found, backward(jax.tree.map(jnp.ones_like, found))

    traced, (found, _) = jax.make_jaxpr(gradients, return_shape=True)(state.params, state.batch_stats, images)
    return Least(
        products=product_bytes(traced.jaxpr),
        loss=2 * _bytes(found) + _bytes(batch["label"]) // devices,
        # A gradient is as large as its parameter at most; the loss of digits on its way is not counted.
        state=2 * _bytes(state.params) + 2 * _bytes(state.opt_state) + 2 * _bytes(state.params),
        image=_bytes(image) // devices,
    )


def product_bytes(jaxpr: Any) -> int:
    """Bytes of operands and results of all convolutions and matrix products of a traced program."""
    total = 0
    for equation, turns in equations(jaxpr):
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            total += turns * _bytes([each.aval for each in (*equation.invars, *equation.outvars)])
    return total


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
