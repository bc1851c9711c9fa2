"""Convolutions and their gradients against the sum over the taps, in NumPy; and as they are compiled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.models.convolution import convolve
from dpanet_jax.models.layers import Conv
from dpanet_jax.training.traced import equations

only_on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="it is for a CPU")


def tap_by_tap(x, kernel, dy, stride, dilation):
    """The convolution of x, and the gradients of its product with dy by x and the kernel."""
    pads = [dilation * (n // 2) for n in kernel.shape[:2]]
    padded = np.pad(x, ((0, 0), *((pad, pad) for pad in pads), (0, 0)))
    y, dpadded, dkernel = 0, np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(*kernel.shape[:2]):
        rows, columns = (
            slice(start * dilation, start * dilation + (n - 1) * stride + 1, stride)
            for start, n in zip((i, j), dy.shape[1:3], strict=True)
        )
        y = y + padded[:, rows, columns] @ kernel[i, j]
        dpadded[:, rows, columns] += dy @ kernel[i, j].T
        dkernel[i, j] = np.einsum("bhwc,bhwo->co", padded[:, rows, columns], dy)
    height, width = x.shape[1:3]
    return y, dpadded[:, pads[0] : pads[0] + height, pads[1] : pads[1] + width], dkernel


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "dilation"),
    [
        ((7, 9), (3, 3), 1, 1),
        ((8, 9), (3, 3), 2, 1),
        ((9, 12), (7, 5), 2, 1),
        ((9, 8), (3, 1), 1, 4),
        ((11, 10), (1, 3), 3, 2),
        ((6, 7), (2, 2), 2, 1),
        ((2, 3), (3, 3), 1, 2),
    ],
)
def test_the_output_and_both_gradients(size, kernel_size, stride, dilation):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(*kernel_size, 3, 5))
    pads = [dilation * (n // 2) for n in kernel_size]
    lengths = zip(size, kernel_size, pads, strict=True)
    given = [(length + 2 * pad - dilation * (n - 1) - 1) // stride + 1 for length, n, pad in lengths]
    dy = rng.normal(size=(2, *given, 5))

    @jax.jit
    def all_three(x, kernel, dy):
        y, gradients = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, dilation), x, kernel)
        return y, *gradients(dy)

    with jax.enable_x64():
        found = all_three(x, kernel, dy)
    for ours, expected in zip(found, tap_by_tap(x, kernel, dy, stride, dilation), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@only_on_cpu
@pytest.mark.parametrize("options", [{"kernel_size": (3, 5), "stride": 2}, {"dilation": 2, "groups": 2}])
def test_inside_of_a_loop_a_cpu_is_given_the_order_of_axes_that_is_fast(options):
    conv = Conv(4, **options)
    xs = jnp.ones((3, 2, 9, 8, 6))
    params = conv.init(jax.random.key(0), xs[0])

    def loss(params, x):
        return jnp.sum(conv.apply(params, x) ** 2)

    def summed(params, xs):
        def one(total, x):
            return jax.tree.map(jnp.add, total, jax.grad(loss, (0, 1))(params, x)), None

        zeros = jax.tree.map(jnp.zeros_like, (params, xs[0]))
        return jax.lax.scan(one, zeros, xs)[0]

    compiled = jax.jit(summed).lower(params, xs).compile().as_text()
    assert " while(" in compiled
    orders = re.findall(r" convolution\(.*dim_labels=(\S+?)[,\s]", compiled)
    assert len(orders) == 3 * conv.groups
    assert set(orders) == {"b01f_01io->b01f"}


LAYERS = {
    "strided": (Conv(4, stride=2), (1, 8, 8, 3), "conv_general_dilated"),
    "by tiles": (Conv(128), (1, 24, 24, 128), "conv_general_dilated"),
    "1×1": (Conv(4, 1), (1, 8, 8, 3), "dot_general"),
}


@pytest.mark.parametrize(("conv", "shape", "primitive"), LAYERS.values(), ids=LAYERS)
def test_a_program_holds_the_convolution_and_the_gradients_that_are_asked_for(conv, shape, primitive):
    """As it is counted: neither the convolution again, nor a gradient of images."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(conv.init, jax.random.key(0), x)

    def count(arguments):
        gradient = jax.grad(lambda params, x: conv.apply(params, x).sum(), arguments)
        found = [each.primitive.name for each, _ in equations(jax.make_jaxpr(gradient)(params, x).jaxpr)]
        return found.count(primitive)

    assert count((0, 1)) == 3
    if conv.stride == 2:
        assert count(0) == 2
