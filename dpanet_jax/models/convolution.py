"""Convolutions whose gradients are fast on a CPU inside of a loop too.

Axes: B batch, H and W of a feature map, C channels; h and w of a kernel.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

_convolve = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """A convolution of one group as XLA does it, padded by dilation · (kernel size // 2).

    (B, H, W, C), (h, w, C, C') → (B, H', W', C').
    """
    return _convolve(
        x,
        kernel,
        (stride, stride),
        [(dilation * (n // 2),) * 2 for n in kernel.shape[:2]],
        rhs_dilation=(dilation, dilation),
    )


def plain_gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, dilation: int, both: bool = True
) -> tuple[jax.Array | None, jax.Array]:
    """Those of `plain` by x and kernel, as JAX writes them; of x None where not `both`."""
    of_kernel = jax.linear_transpose(lambda kernel: plain(x, kernel, stride, dilation), kernel)
    of_input = jax.linear_transpose(lambda x: plain(x, kernel, stride, dilation), x)
    return of_input(dy)[0] if both else None, of_kernel(dy)[0]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """`plain`, whose gradients are written for the device. It has no forward-mode derivative."""
    return plain(x, kernel, stride, dilation)


def _forward(x: Any, kernel: Any, stride: int, dilation: int) -> tuple[jax.Array, Any]:
    # Images have no gradient: what is not asked for is not computed.
    kept = x.value, kernel.value, () if x.perturbed else None
    return convolve(x.value, kernel.value, stride, dilation), kept


def _backward(stride: int, dilation: int, kept: Any, dy: jax.Array) -> tuple[Any, jax.Array]:
    x, kernel, of_input = kept
    ways = (_gradients_on_cpu, plain_gradients)
    on_cpu, default = (
        partial(way, stride=stride, dilation=dilation, both=of_input is not None) for way in ways
    )
    return jax.lax.platform_dependent(x, kernel, dy, cpu=on_cpu, default=default)


convolve.defvjp(_forward, _backward, symbolic_zeros=True)


def _gradients_on_cpu(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, dilation: int, both: bool
) -> tuple[jax.Array | None, jax.Array]:
    """As convolutions of the output's order of axes, between transpositions.

    JAX's own have other orders, and XLA's convolutions of those take 30 times as long there. XLA brings them
    into this one itself, but not inside of a loop.
    """
    before, rest = [], []  # rows and columns of zeros around x; and around dy, for dx
    for length, given, n in zip(x.shape[1:3], dy.shape[1:3], kernel.shape[:2], strict=True):
        pad, reach, last = dilation * (n // 2), dilation * (n - 1), (given - 1) * stride
        before.append((pad, reach + last + 1 - length - pad))
        rest.append((reach - pad, length + pad - last - 1))
    # Summed over the batch and the positions: (C, H, W, B) and (H', W', B, C') → (C, h, w, C').
    dkernel = _convolve(
        x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (dilation,) * 2, before, rhs_dilation=(stride,) * 2
    ).transpose(1, 2, 0, 3)
    if not both:
        return None, dkernel
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    dx = _convolve(dy, turned, (1, 1), rest, lhs_dilation=(stride,) * 2, rhs_dilation=(dilation,) * 2)
    return dx, dkernel
