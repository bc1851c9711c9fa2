"""ResNet v1 backbones (stride on the 3×3), plain or deep stem, dilated to an output stride.

Parameter for parameter those of torchvision (plain stem) and PyTorch-Encoding (deep stem). Every padding is
PyTorch's symmetric one.
"""

from collections.abc import Callable, Sequence
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
    half the time on a CPU.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
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
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=[(pad, pad), (pad, pad)],
                rhs_dilation=(self.dilation, self.dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
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


def layers(dtype, param_dtype, axis_name, train: bool):
    """`conv` and `norm`, the two constructors that every part of the network builds with."""
    conv = partial(Conv, dtype=dtype, param_dtype=param_dtype)
    norm = partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        param_dtype=param_dtype,
        axis_name=axis_name,
    )
    return conv, norm


class BasicBlock(nn.Module):
    """Two 3×3 convolutions: ResNet-18 and 34."""

    features: int
    stride: int
    dilations: tuple[int, int]
    downsample: bool
    conv: Any
    norm: Any
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = self.dilations
        y = self.conv(self.features, stride=self.stride, dilation=first, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.features, dilation=second, name="conv2")(y)
        y = self.norm(name="bn2")(y)
        return nn.relu(y + _shortcut(self, x))


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride), 1×1: ResNet-50, 101 and 152."""

    features: int
    stride: int
    dilations: tuple[int, int]
    downsample: bool
    conv: Any
    norm: Any
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(name="bn1")(self.conv(self.features, 1, name="conv1")(x)))
        y = self.conv(self.features, stride=self.stride, dilation=self.dilations[0], name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.norm(name="bn3")(self.conv(4 * self.features, 1, name="conv3")(y))
        return nn.relu(y + _shortcut(self, x))


def _shortcut(block, x):
    if not block.downsample:
        return x
    x = block.conv(block.features * block.expansion, 1, block.stride, name="downsample_conv")(x)
    return block.norm(name="downsample_bn")(x)


ARCHITECTURES = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


def strides_and_dilations(output_stride: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the four stages. A stage that would go below the output stride is dilated instead."""
    choose("output_stride", output_stride, (8, 16, 32))
    return {
        8: ((1, 2, 1, 1), (1, 1, 2, 4)),
        16: ((1, 2, 2, 1), (1, 1, 1, 2)),
        32: ((1, 2, 2, 2), (1, 1, 1, 1)),
    }[output_stride]


def block_dilations(dilation: int, num_blocks: int, multi_grid: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Dilation of each block's strided and (in a basic block) second 3×3 convolution, for one stage.

    As in PyTorch-Encoding: the first block of a dilated stage still has the previous stage's dilation in
    its first convolution, and `multi_grid` gives the first convolutions' dilations instead.
    """
    if multi_grid:
        return [(first, dilation) for first in multi_grid]
    first = max(1, dilation // 2)
    return [(first if i == 0 else dilation, dilation) for i in range(num_blocks)]


class ResNet(nn.Module):
    """(B, H, W, 3) normalised images → {"c1", …, "c4"}, the outputs of the four stages.

    Stage widths are `width` · (1, 2, 4, 8), times 4 in the bottleneck networks. c4 has 1/output_stride of
    the image's size, rounded up. `multi_grid` is () or a dilation for each block of the last stage.
    Raises ValueError for an option out of its choices.
    """

    architecture: str
    stem: str = "plain"
    width: int = 64
    output_stride: int = 8
    multi_grid: tuple[int, ...] = ()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        choose("architecture", self.architecture, tuple(ARCHITECTURES))
        block, depths = ARCHITECTURES[self.architecture]
        strides, dilations = strides_and_dilations(self.output_stride)
        choose("stem", self.stem, ("plain", "deep"))
        if self.multi_grid and len(self.multi_grid) != depths[3]:
            raise ValueError(
                f"multi_grid={tuple(self.multi_grid)}: one dilation for each of {depths[3]} blocks"
            )
        conv, norm = layers(self.dtype, self.param_dtype, self.axis_name, train)
        if self.stem == "plain":
            x = nn.relu(norm(name="bn1")(conv(self.width, 7, 2, name="conv1")(x)))
        else:
            widths = (self.width, self.width, 2 * self.width)
            for i, features in enumerate(widths):
                x = conv(features, 3, 2 if i == 0 else 1, name=f"conv1_{i}")(x)
                x = nn.relu(norm(name=f"bn1_{i}")(x))
        x = max_pool(x)
        stages = {}
        make_block = nn.remat(block) if self.remat else block
        for stage, (depth, stride) in enumerate(zip(depths, strides, strict=True)):
            features = self.width * 2**stage
            multi_grid = self.multi_grid if stage == 3 else ()
            grid = block_dilations(dilations[stage], depth, multi_grid)
            for i in range(depth):
                block_stride = stride if i == 0 else 1
                x = make_block(
                    features,
                    block_stride,
                    grid[i],
                    # Written after the channels and not the index: as published, layer1 of the
                    # basic networks has none, unless the stem is wider than it.
                    downsample=block_stride != 1 or x.shape[-1] != features * block.expansion,
                    conv=conv,
                    norm=norm,
                    name=f"layer{stage + 1}_{i}",
                )(x)
            stages[f"c{stage + 1}"] = x
        return stages
