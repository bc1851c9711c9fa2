"""ResNeSt (arXiv 2004.08955): a ResNet whose 3×3 convolutions attend over their splits.

Parameter for parameter the published networks, at radix 2 and one group. Axes: B batch, H and W of a
feature map, C channels.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpanet_jax.models.attention import softmax
from dpanet_jax.models.backbones.resnet import (
    MultiGrid,
    OutputStride,
    Remat,
    Width,
    check_multi_grid,
    deep_stem,
    residual_stages,
)
from dpanet_jax.models.layers import Numerics, average_down, average_pool
from dpanet_jax.options import OptionError, check_fields

RADIX = 2
_REDUCTION = 4


class SplitAttention(nn.Module):
    """Split attention (section 3.1 there). (B, H, W, C) → (B, H, W, features).

    A convolution makes RADIX splits of `features` channels, from a part of the input each; their sum,
    averaged over the image, goes through two 1×1 convolutions to one weight for each split and channel, a
    softmax over the splits, and the weighted splits are added.
    """

    features: int
    dilation: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inner = max(x.shape[-1] * RADIX // _REDUCTION, 32)
        x = self.conv(RADIX * self.features, dilation=self.dilation, groups=RADIX, name="conv")(x)
        x = nn.relu(self.norm(name="bn0")(x))
        splits = jnp.stack(jnp.split(x, RADIX, axis=-1), axis=-2)  # (B, H, W, RADIX, C)
        gap = splits.sum(axis=-2).mean(axis=(1, 2), keepdims=True)  # (B, 1, 1, C)
        gap = self.conv(inner, 1, use_bias=True, name="fc1")(gap)
        gap = nn.relu(self.norm(name="bn1")(gap))
        logits = self.conv(RADIX * self.features, 1, use_bias=True, name="fc2")(gap)
        logits = logits.reshape(*logits.shape[:-1], RADIX, self.features)
        weights = softmax(logits.swapaxes(-1, -2)).swapaxes(-1, -2).astype(x.dtype)
        return (weights * splits).sum(axis=-2)


class SplitAttentionBottleneck(nn.Module):
    """1×1, split attention, 1×1: ResNeSt-50 and 101.

    Strides are averages: `avd` in the paper's code, 3×3 after the attention, in the first block of the
    stages 2 to 4 also where a dilated stage has stride 1; and before the shortcut's 1×1 convolution.
    """

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
        y = SplitAttention(self.features, self.dilations[0], self.conv, self.norm, name="conv2")(y)
        if self.average:
            y = average_pool(y, 3, self.stride)
        y = self.norm(name="bn3")(self.conv(4 * self.features, 1, name="conv3")(y))
        if self.downsample:
            x = self.conv(4 * self.features, 1, name="downsample_conv")(average_down(x, self.stride))
            x = self.norm(name="downsample_bn")(x)
        return nn.relu(y + x)


ARCHITECTURES = {"resnest50": (3, 4, 6, 3), "resnest101": (3, 4, 23, 3)}


class ResNeSt(nn.Module):
    """(B, H, W, 3) normalised images → {"c1", …, "c4"}, the outputs of the four stages.

    Stage widths are 4 · `width` · (1, 2, 4, 8). The stem is always deep, ResNeSt-50's of half the width.
    Raises OptionError for a value that an option may not have.
    """

    architecture: str
    numerics: Numerics = Numerics()
    width: Width = 64
    output_stride: OutputStride = 8
    multi_grid: MultiGrid = ()
    remat: Remat = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.width % RADIX:
            raise OptionError(f"width={self.width}: must be even for a ResNeSt, whose splits halve it")
        check_multi_grid(self.architecture, ARCHITECTURES[self.architecture][3], self.multi_grid)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        conv, norm = self.numerics.layers(train)
        first = self.width // 2 if self.architecture == "resnest50" else self.width
        x = deep_stem(x, (first, first, 2 * first), conv, norm)
        depths = ARCHITECTURES[self.architecture]
        return residual_stages(self, x, SplitAttentionBottleneck, depths, conv, norm)
