"""What is measured on both sides of a comparison, and by what recipe.

A measurement goes by PyTorch's names and layouts (NCHW images, OIHW kernels), as NumPy arrays in the
precision that it was computed in.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dpanet_jax.training.optimizer import scaled_lr
from dpanet_jax.training.options import Optimizer

STAGES = ("c1", "c2", "c3", "c4")


@dataclass
class Recipe:
    """What both sides do: plain values from a config."""

    num_classes: int
    options: dict[str, Any]  # of `models.build`, without dtype
    loss_weights: dict[str, float]
    class_weights: tuple[float, ...]
    optimizer: Optimizer
    batch_size: int
    total_steps: int

    @property
    def lr(self) -> float:
        """The backbone's rate at the first step, for this batch size."""
        return scaled_lr(self.optimizer.lr, self.batch_size, self.optimizer.lr_batch_size)


@dataclass
class Measured:
    """Arrays by name: of the forward pass in evaluation mode, of the first step, and after the last."""

    stages: dict[str, np.ndarray] = field(default_factory=dict)
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    loss: dict[str, np.ndarray] = field(default_factory=dict)
    gradients: dict[str, np.ndarray] = field(default_factory=dict)
    batch_stats: dict[str, np.ndarray] = field(default_factory=dict)
    losses: dict[str, np.ndarray] = field(default_factory=dict)
    parameters: dict[str, np.ndarray] = field(default_factory=dict)


def nchw(x: Any) -> np.ndarray:
    """(B, H, W, C) → (B, C, H, W)."""
    return np.moveaxis(np.asarray(x), -1, 1)


def is_statistic(name: str) -> bool:
    """Whether a name is of batch norm's running statistics, and not of a parameter."""
    return name.endswith(("running_mean", "running_var"))
