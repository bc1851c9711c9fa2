"""What tests read of a run's workdir, and how they stop a run in a step."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import dpanet_jax
from dpanet_jax import checkpoint
from dpanet_jax.training import build

# What the log says of time, which no two runs share.
TIMES = ("train/images_per_second", "train/input_wait")


def lines(workdir: Path) -> list[dict[str, Any]]:
    """The lines of the log."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def log_of(workdir: Path) -> list[dict[str, Any]]:
    """The lines of the log in their order, without what they say of time."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines(workdir)]


def steps_of(workdir: Path) -> list[int]:
    """The steps whose checkpoints are there."""
    return checkpoint.steps_of(workdir / "checkpoints")


def same_weights(ours: Path, theirs: Path, which: str = "latest") -> None:
    """Two runs' variables are equal to the last bit."""
    first, second = (dpanet_jax.load(path, which).variables for path in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, first, second)


class Stopped(BaseException):
    """What a process dies of."""


def die_in(step: int, patch: pytest.MonkeyPatch) -> None:
    """Every run dies in this step, before it is logged."""
    is_logged = build.Parts.is_logged

    def asked(self: Any, at: int) -> bool:
        if at == step:
            raise Stopped
        return is_logged(self, at)

    patch.setattr(build.Parts, "is_logged", asked)
