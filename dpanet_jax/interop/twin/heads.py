"""Attention modules and heads of DPANet in plain PyTorch, with DANet's and PyTorch-Encoding's names.

Sources: the paper's equations 8 to 14 for SPA and CPA, DANet (da_att.py, danet.py) for the head around them,
PyTorch-Encoding (fcn.py) for the FCN head. Axes: B batch, C channels, H and W of a feature map, N = H·W,
T pooled positions, K classes; arrays are (B, C, H, W).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

_EVEN, _ODD = (1, 4, 8, 10, 12), (1, 5, 7, 9, 13)
POOL_SIZES = {"mixed": (_EVEN, _ODD), "even": (_EVEN, _EVEN), "odd": (_ODD, _ODD)}  # keys', values'
_POOLS: dict[str, Callable[..., Any]] = {"avg": F.adaptive_avg_pool2d, "max": F.adaptive_max_pool2d}


def pyramid(x: torch.Tensor, sizes: tuple[int, ...], pool: str) -> torch.Tensor:
    """(B, C, H, W) → (B, C, T): n x n adaptive pooling for every n of `sizes` in turn, each row-major."""
    return torch.cat([_POOLS[pool](x, size).flatten(2) for size in sizes], dim=2)


class SpatialPoolAttention(nn.Module):
    """SPA (eq. 8 and 9): gamma · A·V + x, A = softmax over T of Q·Kᵀ, K and V pooled from x; keeps the shape.

    Without `conv` Q, K and V are the identity before pooling, and gamma (1,), at first 0, the only parameter.
    """

    def __init__(self, channels: int, pool_sizes: str = "mixed", pool: str = "avg", conv: bool = False):
        super().__init__()
        self.key_sizes, self.value_sizes = POOL_SIZES[pool_sizes]
        self.pool, self.conv = pool, conv
        if conv:
            self.query_conv = nn.Conv2d(channels, channels, 1)
            self.key_conv = nn.Conv2d(channels, channels, 1)
            self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = x, x, x
        if self.conv:
            query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        query = query.flatten(2).transpose(1, 2)  # (B, N, C)
        key = pyramid(key, self.key_sizes, self.pool)  # (B, C, T)
        value = pyramid(value, self.value_sizes, self.pool)
        attention = (query @ key).softmax(dim=-1)  # (B, N, T)
        out = value @ attention.transpose(1, 2)  # (B, C, N)
        return self.gamma * out.view_as(x) + x


class NonLocal(nn.Module):
    """The non-local block with one convolution for queries and keys: output(A·γ(x)) + x; keeps the shape.

    A = softmax over the last axis of αᵀα, (B, N, N), with α = query_key_conv(x) of `inner` channels, by
    default C // 8. The output convolution starts at 0, so the block starts as the identity.
    """

    def __init__(self, channels: int, inner: int = 0):
        super().__init__()
        inner = inner or max(1, channels // 8)
        self.query_key_conv = nn.Conv2d(channels, inner, 1)
        self.value_conv = nn.Conv2d(channels, inner, 1)
        self.output_conv = nn.Conv2d(inner, channels, 1)
        for parameter in self.output_conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alpha = self.query_key_conv(x).flatten(2)  # (B, inner, N)
        attention = (alpha.transpose(1, 2) @ alpha).softmax(dim=-1)  # (B, N, N)
        out = self.value_conv(x).flatten(2) @ attention.transpose(1, 2)  # (B, inner, N)
        return self.output_conv(out.unflatten(2, x.shape[2:])) + x


class ChannelPoolAttention(nn.Module):
    """CPA (eq. 10 to 14): channel i of the result is gamma · Σ_j A_ij x_j + x_i; keeps the shape.

    A = softmax over the last axis of E, (B, C, C), where E = max over that axis of D, less D = X·Xᵀ;
    squared with affinity "square". gamma (1,), at first 0, is the only parameter.
    """

    def __init__(self, affinity: str = "subtract"):
        super().__init__()
        self.affinity = affinity
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = x.flatten(2)  # (B, C, N)
        product = features @ features.transpose(1, 2)
        energy = product.amax(dim=-1, keepdim=True) - product
        if self.affinity == "square":
            energy = energy**2
        out = energy.softmax(dim=-1) @ features
        return self.gamma * out.view_as(x) + x


def _conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _classifier(channels: int, num_classes: int, dropout: float) -> list[nn.Module]:
    return [nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1)]


class FCNHead(nn.Module):
    """PyTorch-Encoding's FCN head: (B, C, H, W) → logits (B, K, H, W), through C // 4 channels."""

    def __init__(self, channels: int, num_classes: int, dropout: float):
        super().__init__()
        inner = channels // 4
        self.conv5 = nn.Sequential(*_conv_bn_relu(channels, inner), *_classifier(inner, num_classes, dropout))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """{"logits": (B, K, H, W)}."""
        return {"logits": self.conv5(x)}


class DPANetHead(nn.Module):
    """The two branches and their fusion: (B, C, H, W) → logits (B, K, H, W) of each, at the same size.

    A branch is conv3x3, BN, ReLU (conv5a, conv5c) → its module (sa, sc) → conv3x3, BN, ReLU (conv51, conv52),
    at `reduce_channels` channels; with 0 the modules stand alone, straight on the input. conv6 classifies the
    spatial branch, conv7 the channel branch, conv8 both, concatenated or summed. The options are `build`'s.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        dropout: float,
        *,
        reduce_channels: int,
        fusion: str,
        spatial: str,
        channel: str,
        pool_sizes: str,
        qkv: str,
        pool: str,
        affinity: str,
    ):
        super().__init__()
        inner = reduce_channels or channels
        self.conv5a: nn.Module
        self.conv5c: nn.Module
        self.conv51: nn.Module
        self.conv52: nn.Module
        self.sa: nn.Module
        if reduce_channels:
            self.conv5a = nn.Sequential(*_conv_bn_relu(channels, inner))
            self.conv5c = nn.Sequential(*_conv_bn_relu(channels, inner))
            self.conv51 = nn.Sequential(*_conv_bn_relu(inner, inner))
            self.conv52 = nn.Sequential(*_conv_bn_relu(inner, inner))
        else:
            self.conv5a = self.conv5c = self.conv51 = self.conv52 = nn.Identity()
        if spatial == "spa":
            self.sa = SpatialPoolAttention(inner, pool_sizes, pool, conv=qkv == "conv")
        else:
            self.sa = NonLocal(inner) if spatial == "nonlocal" else nn.Identity()
        self.sc = ChannelPoolAttention(affinity) if channel == "cpa" else nn.Identity()
        self.concat = fusion == "concat"
        self.conv6 = nn.Sequential(*_classifier(inner, num_classes, dropout))
        self.conv7 = nn.Sequential(*_classifier(inner, num_classes, dropout))
        self.conv8 = nn.Sequential(*_classifier(2 * inner if self.concat else inner, num_classes, dropout))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """{"logits"}, and in training {"logits", "spatial", "channel"}: each (B, K, H, W)."""
        spatial = self.conv51(self.sa(self.conv5a(x)))
        channel = self.conv52(self.sc(self.conv5c(x)))
        fused = torch.cat([spatial, channel], dim=1) if self.concat else spatial + channel
        if not self.training:
            return {"logits": self.conv8(fused)}
        return {"logits": self.conv8(fused), "spatial": self.conv6(spatial), "channel": self.conv7(channel)}
