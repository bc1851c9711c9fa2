"""Variables on the devices: what inference on a CPU finds computed beside them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.evaluation.protocols.devices import LocalDevices
from dpanet_jax.models import winograd
from dpanet_jax.models.layers import Conv

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="tiles are for a CPU")


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Conv(128, dilation=2, name="second")(Conv(128, 1, name="first")(x))


def test_batches_find_their_kernels_transformed():
    """On all devices, for a batch that is split over them; the numbers stay."""
    x = jax.random.normal(jax.random.key(0), (8, 24, 24, 64))
    variables = jax.tree.map(np.asarray, Network().init(jax.random.key(1), x))
    devices = LocalDevices()
    placed = devices.put_variables(variables, jnp.dtype("float32"))
    apply = devices.compile(Network().apply)
    assert jax.tree.map(jnp.shape, placed[winograd.COLLECTION]) == {"second": {"kernel": (16, 128, 128)}}
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(placed))
    found, expected = apply(placed, devices.put_rows(np.asarray(x))), Network().apply(variables, x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * float(jnp.abs(expected).max()))
    cleared = {**placed, winograd.COLLECTION: jax.tree.map(jnp.zeros_like, placed[winograd.COLLECTION])}
    assert not apply(cleared, devices.put_rows(np.asarray(x))).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_types_have_no_tiles(dtype):
    variables = {"params": {"kernel": np.zeros((3, 3, 128, 128), np.float32)}}
    placed = LocalDevices().put_variables(variables, jnp.dtype(dtype))
    assert placed.keys() == {"params"}
