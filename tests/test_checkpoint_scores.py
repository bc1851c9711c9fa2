"""Scores of checkpoints: which is the best, and what is said of one that cannot be read."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dpanet_jax import checkpoint
from dpanet_jax.checkpoint import Checkpoints
from dpanet_jax.training.state import TrainState

ABOUT = {"config": {"seed": 1}, "classes": {}, "provenance": {"version": "9.9.9", "commit": "abc"}}
MEASURED = {"evaluation.absent": "exclude"}
SIZE = 3000


def state(step: int, size: int = 3) -> TrainState:
    """Its numbers are of the step alone, and do not compress."""
    params = {"w": np.random.default_rng(step).random(size).astype(np.float32)}
    return TrainState(np.int32(step), params, {}, {"m": np.zeros(2)})


def folders(workdir: Path) -> list[str]:
    return sorted(p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def saved(workdir: Path, *steps: int, **options: Any) -> Checkpoints:
    """Checkpoints of these steps, all kept; the lines that are told are in `workdir / "told"`."""

    def tell(line: str) -> None:
        with open(workdir / "told", "a") as file:
            file.write(line + "\n")

    manager = Checkpoints(workdir, **{"keep_latest": 10, **options}, tell=tell)
    for step in steps:
        manager.save(state(step, size=SIZE), ABOUT)
    manager.wait()
    return manager


def test_a_score_that_is_not_a_number_never_displaces_one(tmp_path: Path) -> None:
    with saved(tmp_path, 1, 2, 3, keep_latest=1) as manager:
        pass
    with Checkpoints(tmp_path) as manager:
        for step, score in ((4, 0.4), (5, float("nan")), (6, 0.2), (7, float("nan"))):
            manager.save(state(step), ABOUT)
            manager.add_score(step, score, MEASURED if step < 7 else {"evaluation.absent": "zero"})
    assert folders(tmp_path) == ["4", "7"]
    assert checkpoint.find(tmp_path).name == "4"
    assert (
        json.loads((tmp_path / "checkpoints" / "7" / "metrics" / "metrics").read_text())["mean_iou"] is None
    )


def test_scores_are_compared_like_with_like(tmp_path: Path) -> None:
    """Measured in another way, a higher score of before is not the best any more."""
    with Checkpoints(tmp_path, keep_latest=1) as manager:
        manager.save(state(1), ABOUT)
        manager.add_score(1, 0.9, {"evaluation.absent": "exclude"})
        manager.save(state(2), ABOUT)
        manager.wait()
        assert folders(tmp_path) == ["1", "2"] and checkpoint.find(tmp_path).name == "1"
        manager.add_score(2, 0.3, {"evaluation.absent": "zero"})
        manager.save(state(3), ABOUT)
        manager.add_score(3, 0.2, {"evaluation.absent": "zero"})
    assert folders(tmp_path) == ["2", "3"] and checkpoint.find(tmp_path).name == "2"


def test_a_score_that_cannot_be_read_is_kept_and_is_not_the_best(tmp_path: Path) -> None:
    with saved(tmp_path, 1, 2, 3) as manager:
        for step, score in ((1, 0.5), (2, 0.9), (3, 0.1)):
            manager.add_score(step, score, MEASURED)
    file = tmp_path / "checkpoints" / "2" / "metrics" / "metrics"
    file.write_text(file.read_text().replace("0.9", "0.8"))
    assert checkpoint.read_score(tmp_path / "checkpoints" / "2") is None
    assert checkpoint.find(tmp_path).name == "1"
    with Checkpoints(tmp_path) as manager:
        assert manager.has_score(3) and not manager.has_score(2)
    assert folders(tmp_path) == ["1", "2", "3"]


def test_a_score_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Orbax wrote {"mean_iou": …}; the mean was over the classes that are there."""
    config = {
        "data": {"val_split": "val"},
        "evaluation": {"protocol": "whole", "base_size": 0, "absent": "zero"},
    }
    with Checkpoints(tmp_path) as manager:
        manager.save(state(1), {**ABOUT, "config": config})
        manager.wait()
    folder = tmp_path / "checkpoints" / "1"
    (folder / "metrics").mkdir()
    (folder / "metrics" / "metrics").write_text('{"mean_iou": 0.25}')
    score = checkpoint.read_score(folder)
    assert score and score.mean_iou == 0.25
    assert score.measured == {**checkpoint.measured_by(config), "evaluation.absent": "exclude"}
