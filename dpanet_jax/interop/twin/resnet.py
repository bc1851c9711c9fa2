"""ResNets and ResNeSts in plain PyTorch, with their published architectures and parameter names.

Sources: torchvision's resnet.py (v1, stride on the 3x3), PyTorch-Encoding's ResNet-s (deep stem, dilated
stages, multi-grid) and ResNeSt's own repository (split attention). Arrays are (B, C, H, W), torch's layout.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

ARCHITECTURES = {  # name: (kind of block, blocks of each stage)
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
    "resnest50": ("split", (3, 4, 6, 3)),
    "resnest101": ("split", (3, 4, 23, 3)),
}


def _conv(
    inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias whose padding keeps the size at stride 1."""
    padding = dilation * (size // 2)
    return nn.Conv2d(inputs, outputs, size, stride, padding, dilation, groups, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: (B, inputs, H, W) → (B, planes, H/stride, W/stride).

    `first` dilates conv1 and `dilation` conv2: in PyTorch-Encoding they differ in the first block of a
    dilated stage, and under multi-grid.
    """

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, first: int, dilation: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, planes, 3, stride, first), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3, 1, dilation), nn.BatchNorm2d(planes)
        self.downsample = None
        if stride > 1 or inputs != planes:
            self.downsample = nn.Sequential(_conv(inputs, planes, 1, stride), nn.BatchNorm2d(planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1: (B, inputs, H, W) → (B, 4 planes, H/stride, W/stride). Only the 3x3 is dilated."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, dilation: int):
        super().__init__()
        outputs = planes * self.expansion
        self.conv1, self.bn1 = _conv(inputs, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3, stride, dilation), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = _conv(planes, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class SplitAttention(nn.Module):
    """ResNeSt's split-attention convolution at radix 2 and one group: (B, C, H, W) → (B, C, H, W).

    A grouped 3x3 gives two splits U_0, U_1 of C channels. Their sum, averaged over positions, goes through
    fc1, bn1, ReLU and fc2 to 2C logits; a softmax over the two of each channel weighs the splits. `channels`
    must be even: each half of the input makes one split.
    """

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        inner = max(2 * channels // 4, 32)
        self.conv = _conv(channels, 2 * channels, 3, dilation=dilation, groups=2)
        self.bn0 = nn.BatchNorm2d(2 * channels)
        self.fc1, self.bn1 = nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner)
        self.fc2 = nn.Conv2d(inner, 2 * channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        splits = F.relu(self.bn0(self.conv(x))).unflatten(1, (2, -1))  # (B, 2, C, H, W)
        mean = splits.sum(dim=1).mean(dim=(2, 3), keepdim=True)
        logits = self.fc2(F.relu(self.bn1(self.fc1(mean)))).unflatten(1, (2, -1))  # (B, 2, C, 1, 1)
        return (logits.softmax(dim=1) * splits).sum(dim=1)


class SplitBlock(nn.Module):
    """ResNeSt's bottleneck: (B, inputs, H, W) → (B, 4 planes, H/stride, W/stride).

    The stride is an average pool's, after the split attention (`pooled`: in the first block of layers 2 to 4,
    at stride 1 too, where the stage is dilated); the shortcut is pooled before its 1x1 convolution.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, dilation: int, pooled: bool):
        super().__init__()
        outputs = planes * self.expansion
        self.conv1, self.bn1 = _conv(inputs, planes, 1), nn.BatchNorm2d(planes)
        self.conv2 = SplitAttention(planes, dilation)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if pooled else nn.Identity()
        self.conv3, self.bn3 = _conv(planes, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(pool, _conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.pool(self.conv2(y))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _deep_stem(first: int) -> nn.Sequential:
    """Three 3x3 convolutions to first, first and 2 first channels; the last one's BN is the network's bn1."""
    return nn.Sequential(
        _conv(3, first, 3, 2), nn.BatchNorm2d(first), nn.ReLU(),
        _conv(first, first, 3), nn.BatchNorm2d(first), nn.ReLU(),
        _conv(first, 2 * first, 3),
    )  # fmt: skip


class ResNet(nn.Module):
    """A backbone without classifier. `channels` is a tuple: those of c1, c2, c3 and c4.

    `architecture` is a key of ARCHITECTURES, `stem` "plain" (7x7), "deep" or "v1c" (a ResNeSt's is always
    deep), `width` the channels of the first stage before expansion (published: 64). With `output_stride` 8
    or 16 the stages beyond it keep their size and are dilated, their first block half as much as the rest.
    `multi_grid`, one dilation for each block of layer4, replaces the dilations there.

    Published classifiers hold `fc.weight` and `fc.bias`: loading a state dict drops them.
    """

    def __init__(
        self,
        architecture: str,
        stem: str = "plain",
        width: int = 64,
        output_stride: int = 32,
        multi_grid: tuple[int, ...] = (),
    ):
        super().__init__()
        kind, depths = ARCHITECTURES[architecture]
        if kind == "split" and width % 2:
            raise ValueError(f"width={width}: a ResNeSt's must be even, for its splits halve it")
        self.conv1: nn.Module
        if kind == "split" or stem in ("deep", "v1c"):
            first = (
                width // 2 if architecture == "resnest50" or (kind != "split" and stem == "v1c") else width
            )
            self.conv1, channels = _deep_stem(first), 2 * first
        else:
            self.conv1, channels = _conv(3, width, 7, 2), width
        self.bn1 = nn.BatchNorm2d(channels)

        total_stride, dilation, stage_channels = 4, 1, []
        for stage, depth in enumerate(depths):
            stride = 1 if stage == 0 else 2
            if total_stride * stride > output_stride:
                dilation, stride = 2 * dilation, 1
            total_stride *= stride
            dilations = [max(1, dilation // 2) if i == 0 else dilation for i in range(depth)]
            if multi_grid and stage == 3:
                dilations = list(multi_grid)
            blocks = []
            for i, own in enumerate(dilations):
                shape = (channels, width * 2**stage, stride if i == 0 else 1)
                block: Any
                if kind == "basic":
                    block = BasicBlock(*shape, own, dilation)
                elif kind == "bottleneck":
                    block = Bottleneck(*shape, own)
                else:
                    block = SplitBlock(*shape, own, pooled=stage > 0 and i == 0)
                channels = width * 2**stage * block.expansion
                blocks.append(block)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            stage_channels.append(channels)
        self.channels = tuple(stage_channels)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.register_load_state_dict_pre_hook(_drop_classifier)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W), normalised by ImageNet's mean and std → the stages, {"c1", "c2", "c3", "c4"}."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        stages = {}
        for i in (1, 2, 3, 4):
            stages[f"c{i}"] = x = getattr(self, f"layer{i}")(x)
        return stages


def _drop_classifier(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in ("fc.weight", "fc.bias"):
        state_dict.pop(prefix + name, None)
