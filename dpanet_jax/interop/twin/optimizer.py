"""PyTorch's SGD with the head's own rate, and the poly schedule (PyTorch-Encoding, utils/lr_scheduler.py)."""

import torch
from torch import nn


def sgd(
    model: nn.Module, lr: float, momentum: float, weight_decay: float, head_lr_multiplier: float
) -> torch.optim.SGD:
    """SGD over two groups: `pretrained.*` at `lr`, and everything else at `head_lr_multiplier` times that.

    Weight decay is on every parameter, added to its gradient before momentum. Each group keeps its factor as
    "lr_multiplier", which `set_lr` reads.
    """
    backbone: list[nn.Parameter] = []
    heads: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (backbone if name.startswith("pretrained.") else heads).append(parameter)
    groups = [
        {"params": parameters, "lr": lr * multiplier, "lr_multiplier": multiplier}
        for parameters, multiplier in ((backbone, 1.0), (heads, head_lr_multiplier))
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)


def poly_lr(lr: float, step: int, total: int, power: float, warmup_steps: int = 0) -> float:
    """The backbone's rate for update `step`, 0 to total: lr · (1 - step/total)^power.

    In the first `warmup_steps` updates it is multiplied by (step + 1)/warmup_steps as well. Raises ValueError
    for a step outside [0, total].
    """
    if not 0 <= step <= total or total == 0:
        raise ValueError(f"step={step}: must be between 0 and total={total}, and total more than 0")
    rate = lr * (1 - step / total) ** power
    return rate * min(1.0, (step + 1) / warmup_steps) if warmup_steps else rate


def set_lr(optimizer: torch.optim.SGD, lr: float) -> None:
    """Give every group of an optimizer that `sgd` made its rate for the next update: lr x its multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_multiplier"]
