"""What is measured on both sides of a comparison, and by what recipe.

A measurement goes by PyTorch's names and layouts (NCHW images, OIHW kernels), as NumPy arrays in the
precision that it was computed in.
"""

from dataclasses import dataclass, field

import numpy as np

STAGES = ("c1", "c2", "c3", "c4")


@dataclass
class Recipe:
    """What both sides do: plain values from a config."""

    num_classes: int
    options: dict  # of `models.build`, without dtype
    loss_weights: dict
    class_weights: tuple[float, ...]
    lr: float
    total_steps: int
    power: float
    warmup_steps: int
    momentum: float
    weight_decay: float
    head_lr_multiplier: float


@dataclass
class Measured:
    """Arrays by name: of the forward pass in evaluation mode, of the first step, and after the last."""

    stages: dict = field(default_factory=dict)
    logits: dict = field(default_factory=dict)
    loss: dict = field(default_factory=dict)
    gradients: dict = field(default_factory=dict)
    batch_stats: dict = field(default_factory=dict)
    losses: dict = field(default_factory=dict)
    parameters: dict = field(default_factory=dict)


def nchw(x) -> np.ndarray:
    """(B, H, W, C) → (B, C, H, W)."""
    return np.moveaxis(np.asarray(x), -1, 1)


def is_statistic(name: str) -> bool:
    """Whether a name is of batch norm's running statistics, and not of a parameter."""
    return name.endswith(("running_mean", "running_var"))
