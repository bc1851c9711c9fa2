"""What is never saved as good, which checkpoint is the best, and one run at a time."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict
from runs import lines, steps_of

import dpanet_jax
from dpanet_jax import checkpoint
from dpanet_jax.evaluation.protocols.whole import Whole
from dpanet_jax.training import build, loop
from dpanet_jax.training.errors import TrainingError, WorkdirInUse

MakeConfig = Callable[[], ConfigDict]


@pytest.mark.parametrize("where", ["params", "batch_stats", "opt_state"])
def test_a_state_that_is_not_finite_is_never_saved(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The figures of every step are finite."""
    make = build.make_train_step

    def make_spoilt(*args: Any, **kwargs: Any) -> Any:
        step = make(*args, **kwargs)

        def train_step(state: Any, batch: Any) -> Any:
            state, metrics = step(state, batch)
            bad = jax.numpy.where(state.step >= 5, jax.numpy.inf, 1.0)
            spoilt = jax.tree.map(lambda x: x * bad.astype(x.dtype), getattr(state, where))
            return state.replace(**{where: spoilt}), {**metrics, "loss": 0.5 * state.step, "grad_norm": 1.0}

        return train_step

    monkeypatch.setattr(build, "make_train_step", make_spoilt)
    words = r"(params|batch_stats|optimizer)/\S+ is not finite after step 6: stopped; .*of step 3 is intact"
    with pytest.raises(TrainingError, match=words):
        loop.train(make_config(), tmp_path)
    assert steps_of(tmp_path) == [3]


def test_a_score_that_is_not_a_number_is_null_in_the_log_and_never_the_best(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpanet_jax.evaluation.metrics import ConfusionMatrix

    compute = ConfusionMatrix.compute

    def undefined_at_the_end(self: Any, absent: str = "exclude") -> Any:
        undefined = {"mean_iou": math.nan} if lines(tmp_path)[-1]["step"] == 6 else {}
        return {**compute(self, absent), **undefined}

    monkeypatch.setattr(ConfusionMatrix, "compute", undefined_at_the_end)
    loop.train(make_config(), tmp_path)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert lines(tmp_path)[-1]["val/mean_iou"] is None
    assert checkpoint.find(tmp_path).name == "3" and steps_of(tmp_path) == [3, 6]


def test_the_best_goes_by_the_mean_iou_of_the_log(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    config.evaluation.absent = "zero"
    config.data.val_split = "val[:1]"  # It lacks some of the classes.
    loop.train(config, tmp_path)
    logged = {line["step"]: line["val/mean_iou"] for line in lines(tmp_path) if "val/mean_iou" in line}
    best = max(logged, key=lambda step: (logged[step], step))
    score = checkpoint.read_score(checkpoint.find(tmp_path))
    assert score and checkpoint.find(tmp_path).name == str(best)
    assert score.mean_iou == logged[best] and score.measured["evaluation.absent"] == "zero"


# ---- One run at a time


def test_a_second_run_is_refused_and_readers_not(make_config: MakeConfig, tmp_path: Path) -> None:
    seen: list[int] = []
    ids = Whole.ids

    def meanwhile(*arguments: Any) -> Any:
        if not seen and len(lines(tmp_path)) > 4:  # In the second evaluation.
            with pytest.raises(WorkdirInUse, match="is in use by another run"):
                loop.train(make_config(), tmp_path)
            seen.append(dpanet_jax.load(tmp_path, "latest").step)
        return ids(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Whole, "ids", meanwhile)
        loop.train(make_config(), tmp_path)
    assert seen in ([3], [6])  # The newest that is whole when it is looked for.
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert not (tmp_path / ".lock").exists()
