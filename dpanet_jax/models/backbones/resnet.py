"""ResNet v1 (stride on the 3×3), dilated to an output stride.

Parameter for parameter those of torchvision (plain stem), PyTorch-Encoding (deep stem) and mmsegmentation
(v1c stem). Axes: B batch, H and W of the image or a feature map, C channels.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax

from dpanet_jax.models.layers import Numerics, max_pool
from dpanet_jax.models.products import materialized
from dpanet_jax.options import Option, OptionError, check_fields


class BasicBlock(nn.Module):
    """Two 3×3 convolutions: ResNet-18 and 34."""

    features: int
    stride: int
    dilations: tuple[int, int]
    downsample: bool
    average: bool  # whether it strides by averages: a ResNeSt's block alone does
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = self.dilations
        y = self.conv(self.features, stride=self.stride, dilation=first, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.features, dilation=second, name="conv2")(y)
        y = self.norm(name="bn2")(y)
        return materialized(nn.relu(y + _shortcut(self, x)))


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride), 1×1: ResNet-50, 101 and 152."""

    features: int
    stride: int
    dilations: tuple[int, int]
    downsample: bool
    average: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(name="bn1")(self.conv(self.features, 1, name="conv1")(x)))
        y = self.conv(self.features, stride=self.stride, dilation=self.dilations[0], name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.norm(name="bn3")(self.conv(4 * self.features, 1, name="conv3")(y))
        return materialized(nn.relu(y + _shortcut(self, x)))


def _shortcut(block: Any, x: jax.Array) -> jax.Array:
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

# Options that every dilated backbone has.
Width = Annotated[int, Option("channels of the first stage; the next ones double it", least=1)]
OutputStride = Annotated[
    Literal[8, 16, 32], Option("the image's size over that of the last stage, which is dilated below 32")
]
MultiGrid = Annotated[
    tuple[int, ...],
    Option("dilations of the last stage's blocks, such as (4, 8, 16); empty: all alike", least=1),
]
Remat = Annotated[
    bool,
    Option(
        "compute the backbone's activations again in the backward pass: less memory, more time",
        kind="operation",
    ),
]


def strides_and_dilations(output_stride: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the four stages. A stage that would go below the output stride (8, 16, 32) is dilated instead."""
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


def check_multi_grid(architecture: str, depth: int, multi_grid: Sequence[int]) -> None:
    """Raises OptionError where the dilations are not one for each of the last stage's `depth` blocks."""
    if len(multi_grid) not in (0, depth):
        raise OptionError(
            f"multi_grid={tuple(multi_grid)!r}: the last stage of {architecture} has {depth} blocks, "
            "each needs one dilation"
        )


class ResNet(nn.Module):
    """(B, H, W, 3) normalised images → {"c1", …, "c4"}, the outputs of the four stages.

    Stage widths are `width` · (1, 2, 4, 8), times 4 in the bottleneck networks. c4 has 1/output_stride of
    the image's size, rounded up. Raises OptionError for a value that an option may not have.
    """

    architecture: str
    numerics: Numerics = Numerics()
    stem: Annotated[
        Literal["plain", "deep", "v1c"],
        Option(
            "first layers of a ResNet: plain, one 7×7 as torchvision's; deep, three 3×3 as ResNet-s; v1c, "
            "three 3×3 half as wide, as mmsegmentation's"
        ),
    ] = "plain"
    width: Width = 64
    output_stride: OutputStride = 8
    multi_grid: MultiGrid = ()
    remat: Remat = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_multi_grid(self.architecture, ARCHITECTURES[self.architecture][1][3], self.multi_grid)
        if self.stem == "v1c" and self.width % 2:
            raise OptionError(f"width={self.width!r}: must be even, for stem='v1c' starts with half of it")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        conv, norm = self.numerics.layers(train)
        if self.stem == "plain":
            x = nn.relu(norm(name="bn1")(conv(self.width, 7, 2, name="conv1")(x)))
        else:
            first = self.width if self.stem == "deep" else self.width // 2
            x = deep_stem(x, (first, first, 2 * first), conv, norm)
        block, depths = ARCHITECTURES[self.architecture]
        return residual_stages(self, x, block, depths, conv, norm)


def deep_stem(x: jax.Array, widths: Sequence[int], conv: Any, norm: Any) -> jax.Array:
    """3×3 convolutions of so many channels, the first of stride 2: (B, H, W, 3) → (B, H/2, W/2, C)."""
    for i, features in enumerate(widths):
        x = conv(features, 3, 2 if i == 0 else 1, name=f"conv1_{i}")(x)
        x = nn.relu(norm(name=f"bn1_{i}")(x))
    return x


def residual_stages(
    backbone: Any, x: jax.Array, block: Any, depths: Sequence[int], conv: Any, norm: Any
) -> dict[str, jax.Array]:
    """The max pool and the four stages of `depths` blocks, by the options of `backbone`: {"c1", …, "c4"}."""
    strides, dilations = strides_and_dilations(backbone.output_stride)
    make_block = nn.remat(block) if backbone.remat else block
    x = max_pool(x)
    stages = {}
    for stage, (depth, stride) in enumerate(zip(depths, strides, strict=True)):
        features = backbone.width * 2**stage
        grid = block_dilations(dilations[stage], depth, backbone.multi_grid if stage == 3 else ())
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
