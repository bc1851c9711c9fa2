"""What the networks are made of: convolution, pooling and batch norm as PyTorch computes them.

Every padding is PyTorch's symmetric one.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpanet_jax.models.attention import choose

# torchvision's initialisation: normal, variance 2 / fan_out.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """A square convolution, padding dilation · (kernel_size // 2).

    A 1×1 kernel is stored as (C, features) and is a matrix product: its weight gradient takes less than
    half the time on a CPU. With `groups` the kernel is (k, k, C/groups, features), and each group is a
    convolution of its own: XLA's grouped one takes 5 times as long on a CPU, its gradient in float64 20.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        shape = shape[2:] if self.kernel_size == 1 else shape
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = (
            self.param("bias", nn.initializers.zeros, shape[-1:], self.param_dtype) if self.use_bias else None
        )
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.kernel_size == 1:
            y = jnp.matmul(x[:, :: self.stride, :: self.stride], kernel)
        else:
            pad = self.dilation * (self.kernel_size // 2)
            convolve = partial(
                jax.lax.conv_general_dilated,
                window_strides=(self.stride, self.stride),
                padding=[(pad, pad), (pad, pad)],
                rhs_dilation=(self.dilation, self.dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            inputs, kernels = (jnp.split(part, self.groups, axis=-1) for part in (x, kernel))
            y = jnp.concatenate([convolve(*pair) for pair in zip(inputs, kernels, strict=True)], axis=-1)
        return y if bias is None else y + bias


def max_pool(x: jax.Array) -> jax.Array:
    """3×3, stride 2, padding 1. (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, C).

    One axis after the other, by comparisons: on a CPU the gradient takes a quarter of the time of
    nn.max_pool's. Of equal values the first in row-major order gets the gradient, as in PyTorch.
    """
    for axis in (2, 1):
        size = -(-x.shape[axis] // 2)
        pads = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        first, second, third = (
            jax.lax.slice_in_dim(padded, start, start + 2 * size - 1, 2, axis) for start in range(3)
        )
        x = jnp.where(first >= second, first, second)
        x = jnp.where(x >= third, x, third)
    return x


def average_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    """torch.nn.AvgPool2d(size, stride, padding=size // 2): padding counts as zeros in the average."""
    pad = size // 2
    return nn.avg_pool(x, (size, size), (stride, stride), [(pad, pad), (pad, pad)], count_include_pad=True)


def average_down(x: jax.Array, stride: int) -> jax.Array:
    """torch.nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False).

    (B, H, W, C) → (B, ⌈H/stride⌉, ⌈W/stride⌉, C): at the lower and right border, where a window leaves the
    image, the average is over what is inside.
    """
    if stride == 1:
        return x
    pads = [(0, -length % stride) for length in x.shape[1:3]]
    return nn.avg_pool(x, (stride, stride), (stride, stride), pads, count_include_pad=False)


BN_VARIANCES = ("unbiased", "biased")


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm, whose running variance may be of the unbiased estimate, as PyTorch keeps it.

    The batch itself is normalised by the biased variance either way. "unbiased" moves the running one
    towards n/(n − 1) times it, n being the positions that a channel has in the global batch; a single
    position has no unbiased variance (PyTorch refuses it), and then the biased one, 0, is kept.
    """

    variance: str = "unbiased"

    def __call__(self, x: jax.Array) -> jax.Array:
        choose("bn_variance", self.variance, BN_VARIANCES)
        unbiased = self.variance == "unbiased" and not self.use_running_average
        old = self.get_variable("batch_stats", "var") if unbiased else None
        y = super().__call__(x)
        if old is not None and not self.is_initializing():
            devices = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
            count = devices * math.prod(x.shape[:-1])
            kept = self.momentum * old
            new = self.get_variable("batch_stats", "var")
            self.put_variable("batch_stats", "var", kept + (new - kept) * (count / max(count - 1, 1)))
        return y


def layers(dtype, param_dtype, axis_name, train: bool, bn_variance: str = "unbiased"):
    """`conv` and `norm`, the two constructors that every part of the network builds with."""
    conv = partial(Conv, dtype=dtype, param_dtype=param_dtype)
    norm = partial(
        BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        param_dtype=param_dtype,
        axis_name=axis_name,
        variance=bn_variance,
    )
    return conv, norm
