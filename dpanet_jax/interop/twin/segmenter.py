"""The whole network in plain PyTorch: backbone, head, auxiliary head, multi-loss, prediction.

Axes: B batch, K classes, h and w of a feature map, H and W of the image. Arrays are (B, C, H, W).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dpanet_jax.data.classes import IGNORE_LABEL
from dpanet_jax.interop.twin.heads import DPANetHead, FCNHead
from dpanet_jax.interop.twin.resnet import ResNet


class Segmenter(nn.Module):
    """Backbone `pretrained`, head `head` on c4 and, if asked for, FCN head `auxlayer` on c3 (training only).

    `build` makes one from the options of `config.model`. `terms` is {term of the loss: the output it is of}.
    Published state dicts load with strict=True as they are: a classifier of the backbone is dropped, and
    `num_batches_tracked` may be absent.
    """

    def __init__(
        self,
        num_classes: int,
        name: str,
        backbone_options: Mapping[str, Any],
        head_options: Mapping[str, Any],
        *,
        terms: Mapping[str, str],
        auxiliary: bool,
        dropout: float,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.terms = dict(terms)
        self.align_corners = align_corners
        self.pretrained = ResNet(**backbone_options)
        _, _, c3, c4 = self.pretrained.channels
        self.head: nn.Module
        if name == "fcn":
            self.head = FCNHead(c4, num_classes, dropout)
        else:
            self.head = DPANetHead(c4, num_classes, dropout, **head_options)
        self.auxlayer = FCNHead(c3, num_classes, dropout) if auxiliary else None
        self.register_load_state_dict_pre_hook(_add_batch_counts)

    def stages(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W), normalised by ImageNet's mean and std → {"c1", "c2", "c3", "c4"}."""
        return self.pretrained(images)

    def outputs(self, stages: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Logits (B, K, h, w) at the feature map's size, from what `stages` returned.

        "logits" always; in training also "spatial" and "channel" of a DPANet, and "auxiliary".
        """
        outputs = self.head(stages["c4"])
        if self.training and self.auxlayer is not None:
            outputs["auxiliary"] = self.auxlayer(stages["c3"])["logits"]
        return outputs

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """`outputs` of `stages`: images (B, 3, H, W) → logits (B, K, h, w) by name."""
        return self.outputs(self.stages(images))

    def resize(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(B, K, h, w) → (B, K, *size), bilinear, by the model's `align_corners`."""
        return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=self.align_corners)

    def loss(
        self,
        outputs: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        weights: Mapping[str, float],
        class_weights: Sequence[float] = (),
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The multi-loss: (Σ weight · term, {term: its mean cross entropy, without weight or gradient}).

        `outputs` is what the model returned; `labels` (B, H, W) int64 in [0, K), or 255 where ignored;
        `weights` {term: float}. A term of weight 0, or whose output is absent, is left out. The means are
        over valid pixels, by their classes' weights where `class_weights` (K floats) are given; where there
        is no valid pixel, each is 0. Raises ValueError for an unknown term, or if no term is left.
        """
        for term in weights:
            if term not in self.terms:
                raise ValueError(f"{term!r} is not a term of the loss; the terms are {', '.join(self.terms)}")
        terms = {
            term: self._cross_entropy(outputs[name], labels, class_weights)
            for term, name in self.terms.items()
            if weights.get(term, 0) and name in outputs
        }
        if not terms:
            raise ValueError(
                f"weights={dict(weights)}: no term is left of the outputs {', '.join(outputs)}; "
                "give one of them a weight"
            )
        total: Any = sum(weights[term] * value for term, value in terms.items())
        return total, {term: value.detach() for term, value in terms.items()}

    def _cross_entropy(
        self, logits: torch.Tensor, labels: torch.Tensor, class_weights: Sequence[float]
    ) -> torch.Tensor:
        height, width = labels.shape[1:]
        logits = self.resize(logits, (height, width))
        if (labels != IGNORE_LABEL).any():
            weight = logits.new_tensor(class_weights) if class_weights else None
            return F.cross_entropy(logits, labels, weight, ignore_index=IGNORE_LABEL)
        # cross_entropy's own mean over no pixel at all is NaN.
        return F.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL, reduction="sum")

    @torch.no_grad()
    def predict(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Class ids (B, *size) int64 of images (B, 3, H, W), in evaluation mode; the mode is restored."""
        training = self.training
        self.eval()
        try:
            return self.resize(self(images)["logits"], size).argmax(dim=1)
        finally:
            self.train(training)


def _add_batch_counts(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Batch norm's counters, which older checkpoints and other frameworks do not have: 0."""
    for name, buffer in module.named_buffers():
        if name.endswith("num_batches_tracked"):
            state_dict.setdefault(prefix + name, torch.zeros_like(buffer))
