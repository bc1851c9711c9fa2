"""The fewest bytes of a step, of a network whose arrays are counted by hand."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dpanet_jax.analysis.least import least, product_bytes
from dpanet_jax.training.state import TrainState


class Network(nn.Module):
    """A 3×3 convolution to 8 channels, a ReLU and a classifier of 5."""

    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        x = nn.relu(nn.Conv(8, (3, 3), use_bias=False, dtype=self.dtype)(x))
        return {"logits": nn.Dense(5, use_bias=False, dtype=self.dtype)(x).astype(jnp.float32)}


def test_by_hand() -> None:
    model = Network()
    images = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.bfloat16)
    state = jax.eval_shape(
        lambda rng, x: TrainState.create(
            {"params": model.init(rng, x, train=True)["params"], "batch_stats": {}},
            optax.sgd(0.1, momentum=0.9),
        ),
        jax.random.key(0),
        images,
    )
    batch = {
        "image": jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((4, 16, 16), jnp.uint8),
    }
    found = least(model, state, batch, devices=2)
    positions = 2 * 16 * 16
    image, hidden, logits = positions * 3, positions * 8, positions * 5
    kernel, matrix = 9 * 3 * 8, 8 * 5
    # Forward both, both gradients of kernels, and the gradient of the hidden activation.
    elements = 2 * (image + kernel + hidden) + 3 * (hidden + matrix + logits)
    assert found.products == 2 * elements
    assert found.loss == 2 * 4 * logits + positions
    # Parameters and momenta in and out, gradients out and in.
    assert found.state == 6 * 4 * (kernel + matrix)
    assert found.image == image
    assert found.total == found.products + found.loss + found.state + found.image


def test_a_product_in_a_loop_counts_at_each_turn() -> None:
    def multiply(x: jax.Array, matrix: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (x @ matrix, None), x, length=3)[0]

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 5), (5, 5))]
    assert product_bytes(jax.make_jaxpr(multiply)(*shapes).jaxpr) == 3 * 4 * (10 + 25 + 10)
