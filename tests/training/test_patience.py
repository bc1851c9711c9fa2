"""Early stopping: the count by itself, and runs whose scores are given."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from dpanet_jax import checkpoint
from dpanet_jax.evaluation.evaluate import Evaluated
from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.training import loop
from dpanet_jax.training.patience import Patience

MakeConfig = Callable[[], ConfigDict]
BY = {"evaluation.absent": "exclude"}


def test_a_run_ends_where_none_of_the_last_scores_is_above_all_before() -> None:
    """Random scores with ties and NaN, against that sentence; restored halfway, too."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        limit = int(rng.integers(1, 4))
        scores = [math.nan if x == 0 else x / 8 for x in rng.integers(0, 8, 12).tolist()]
        patience = Patience(limit)
        for i, score in enumerate(scores):
            if rng.random() < 0.5:
                stored = json.loads(json.dumps(patience.to_dict()))
                patience = Patience(limit)
                patience.go_on(stored, i, [(i - 1, 0.99, BY), (i, score, BY)])
            else:
                patience.add(i, score, BY)
            last = np.nan_to_num(scores[max(0, i + 1 - limit) : i + 1], nan=-1)
            before = np.nan_to_num([-1, *scores[: max(0, i + 1 - limit)]], nan=-1)
            assert patience.is_over == (i + 1 >= limit and last.max() <= before.max()), (
                scores[: i + 1],
                limit,
            )


def test_another_measure_begins_anew_and_no_limit_is_none() -> None:
    patience = Patience(1)
    patience.add(1, 0.5, BY)
    patience.add(2, 0.4, {"evaluation.absent": "zero"})
    assert not patience.is_over and (patience.best, patience.best_step) == (0.4, 2)
    patience.add(3, 0.4, {"evaluation.absent": "zero"})
    assert patience.is_over and not Patience(0, without_better=9).is_over
    assert "1 evaluation has brought no mean IoU above 40.00%, which is of step 2" in patience.in_words(3, 9)
    never = Patience(2)
    never.add(1, math.nan, BY)
    never.add(2, math.nan, BY)
    assert never.is_over and "no mean IoU that is a number" in never.in_words(2, 9)


def test_a_limit_that_is_set_later_counts_what_is_still_there() -> None:
    """The scores of the best checkpoint and of the newest one; not one beyond the step that is restored."""
    patience = Patience(1)
    patience.go_on({}, 6, [(2, 0.9, BY), (6, 0.5, BY), (8, 0.95, BY)])
    assert patience.is_over and (patience.best, patience.best_step) == (0.9, 2)


# ---- Runs of six steps, with an evaluation after each


@pytest.fixture
def make(make_config: MakeConfig) -> Callable[[int], ConfigDict]:
    def make(patience: int) -> ConfigDict:
        config = make_config()
        config.evaluation.every_epochs = 1
        config.data.val_split = "val[:1]"
        config.pictures = 0
        config.training.patience = patience
        return config

    return make


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The mean IoU after each step is given: the best of them after the second."""
    scores = (0.3, 0.6, 0.6, 0.4, 0.7, 0.1)
    evaluated = loop._Run._evaluated
    compute = ConfusionMatrix.compute
    step = [0]

    def noting(self: Any, *arguments: Any) -> Evaluated:
        step[0] = self.step
        return evaluated(self, *arguments)

    monkeypatch.setattr(loop._Run, "_evaluated", noting)
    monkeypatch.setattr(
        ConfusionMatrix,
        "compute",
        lambda self, absent="exclude": {**compute(self, absent), "mean_iou": scores[step[0] - 1]},
    )
    yield


def steps_of_log(workdir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("stopped early")]


@pytest.mark.usefixtures("scored")
def test_a_run_stops_and_goes_on(
    make: Callable[[int], ConfigDict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed before its last evaluation first: that the third score was no better is not forgotten."""

    class Killed(BaseException):
        pass

    def killed(self: Any, step: int, *_: Any) -> None:
        if step == 4:
            raise Killed
        add_score(self, step, *_)

    add_score = checkpoint.Checkpoints.add_score
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "add_score", killed)
        with pytest.raises(Killed):
            loop.train(make(2), tmp_path)
    words = (
        "stopped early after step 4 of 6: 2 evaluations have brought no mean IoU above 60.00%, which is of st"
    )
    for _ in range(2):  # The second time it ends at once.
        assert loop.train(make(2), tmp_path)["mean_iou"] == 0.4
        (line,) = said(capsys)
        assert line.startswith(words) and "(config.training.patience=2; with a larger one, or 0, the" in line
        assert steps_of_log(tmp_path) == [1, 1, 2, 2, 3, 3, 4, 4]
        assert checkpoint.steps_of(tmp_path / "checkpoints") == [3, 4]
    assert "patience" in checkpoint.load_about(tmp_path / "checkpoints" / "4")

    assert loop.train(make(0), tmp_path)["mean_iou"] == 0.1
    assert said(capsys) == []
    assert steps_of_log(tmp_path) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert checkpoint.steps_of(tmp_path / "checkpoints") == [5, 6]
    assert "patience" not in checkpoint.load_about(tmp_path / "checkpoints" / "6")
