"""The scores of checkpoints: what was measured, by what, and which is the best.

`checkpoint` is the module to use; this one is a part of it.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from dpanet_jax import checksums
from dpanet_jax.checkpoint_files import load_about, steps_of
from dpanet_jax.paths import AnyPath

METRIC = "mean_iou"
# What a score depends on beside the weights. Scores that differ in one of these are not compared.
MEASURED_BY = ("data.val_split", "evaluation.protocol", "evaluation.base_size", "evaluation.absent")
_WINDOWS = ("window", "window_stride")  # of `config.evaluation`, as what follows
MEASURED_BY_OF = {
    "slide": _WINDOWS,
    "multiscale": (*_WINDOWS, "scales", "flip"),
    "center_crop": ("window",),
}


@dataclasses.dataclass(frozen=True)
class Score:
    """The mean IoU of a checkpoint, NaN included, and what it was measured by."""

    mean_iou: float
    measured: dict[str, Any]


def measured_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """{key: value} of what a score depends on beside the weights, from a stored config."""
    found = {}
    for key in MEASURED_BY:
        section, _, name = key.partition(".")
        found[key] = config.get(section, {}).get(name)
    of_protocol = MEASURED_BY_OF.get(found["evaluation.protocol"], ())
    return found | {f"evaluation.{name}": config["evaluation"].get(name) for name in of_protocol}


def read_score(folder: AnyPath) -> Score | None:
    """The score of one checkpoint; None where it has none, or one that cannot be read."""
    try:
        content = checksums.unsealed(json.loads(score_file(folder).read_text(encoding="utf-8")))
        mean_iou = content[METRIC]
        measured = content.get("measured")
        if measured is None:
            # An earlier version wrote it: its scores left out the classes that are absent.
            config = load_about(folder)["config"]
            measured = {**measured_by(config), "evaluation.absent": "exclude"}
        return Score(math.nan if mean_iou is None else float(mean_iou), measured)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def score_file(folder: AnyPath) -> AnyPath:
    """Where a checkpoint's score lies: the place and form of Orbax's CheckpointManager."""
    return folder / "metrics" / "metrics"


def has_unreadable_score(folder: AnyPath) -> bool:
    """Whether a checkpoint has a score that cannot be read."""
    return score_file(folder).exists() and read_score(folder) is None


def best_steps(folder: AnyPath) -> list[int]:
    """The steps with a score, the best first; only those that were measured as the newest of them was."""
    found = {step: read_score(folder / str(step)) for step in steps_of(folder)}
    scores = {step: score for step, score in found.items() if score and not math.isnan(score.mean_iou)}
    if not scores:
        return []
    measured = scores[max(scores)].measured
    comparable = {step: score.mean_iou for step, score in scores.items() if score.measured == measured}
    return sorted(comparable, key=lambda step: (comparable[step], step), reverse=True)
