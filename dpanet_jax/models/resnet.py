"""The backbones: ResNet v1 (stride on the 3×3) and ResNeSt, dilated to an output stride.

Parameter for parameter those of torchvision (plain stem) and PyTorch-Encoding (deep stem, ResNeSt).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpanet_jax.models.attention import choose
from dpanet_jax.models.layers import layers, max_pool
from dpanet_jax.models.resnest import SplitAttentionBottleneck


class BasicBlock(nn.Module):
    """Two 3×3 convolutions: ResNet-18 and 34."""

    features: int
    stride: int
    dilations: tuple[int, int]
    downsample: bool
    average: bool  # whether it strides by averages: a ResNeSt's block alone does
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
    average: bool
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
    "resnest50": (SplitAttentionBottleneck, (3, 4, 6, 3)),
    "resnest101": (SplitAttentionBottleneck, (3, 4, 23, 3)),
}
STEMS = ("plain", "deep")


def stem_widths(architecture: str, stem: str, width: int) -> tuple[int, ...]:
    """Channels of the stem's 3×3 convolutions; () for the plain stem, one 7×7.

    A ResNeSt has the deep stem whatever `stem` says, and ResNeSt-50 one of half the width.
    """
    if architecture == "resnest50":
        return (width // 2, width // 2, width)
    if stem == "deep" or architecture == "resnest101":
        return (width, width, 2 * width)
    return ()


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
    bn_variance: str = "unbiased"
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        choose("architecture", self.architecture, tuple(ARCHITECTURES))
        block, depths = ARCHITECTURES[self.architecture]
        strides, dilations = strides_and_dilations(self.output_stride)
        choose("stem", self.stem, STEMS)
        if self.multi_grid and len(self.multi_grid) != depths[3]:
            raise ValueError(
                f"multi_grid={tuple(self.multi_grid)}: one dilation for each of {depths[3]} blocks"
            )
        conv, norm = layers(self.dtype, self.param_dtype, self.axis_name, train, self.bn_variance)
        widths = stem_widths(self.architecture, self.stem, self.width)
        if not widths:
            x = nn.relu(norm(name="bn1")(conv(self.width, 7, 2, name="conv1")(x)))
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
                    average=i == 0 and stage > 0,
                    conv=conv,
                    norm=norm,
                    name=f"layer{stage + 1}_{i}",
                )(x)
            stages[f"c{stage + 1}"] = x
        return stages
