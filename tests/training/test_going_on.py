"""Runs that are stopped where it hurts, and go on: in evaluations, with other options, with damage, elsewhere."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file

import dpanet_jax
from dpanet_jax import checkpoint
from dpanet_jax.checkpoint import Checkpoints
from dpanet_jax.config import ConfigError
from dpanet_jax.evaluation import evaluate as evaluation
from dpanet_jax.evaluation import figures
from dpanet_jax.training import build, loop
from dpanet_jax.training.errors import Interrupted, TrainingError, WorkdirInUse
from dpanet_jax.training.log import RunLog

MakeConfig = Callable[[], ConfigDict]


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def log_of(workdir: Path) -> list[dict[str, Any]]:
    """The lines of the log in their order, without the speed."""
    return [{k: v for k, v in line.items() if "images_per" not in k} for line in lines(workdir)]


def steps_of(workdir: Path) -> list[int]:
    return checkpoint.steps_of(workdir / "checkpoints")


def same_weights(ours: Path, theirs: Path, which: str = "latest") -> None:
    first, second = (dpanet_jax.load(path, which).variables for path in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture(scope="module")
def whole(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    loop.train(make_config(), workdir)
    return workdir


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


class Stopped(BaseException):
    """What a process dies of."""


def at_call(number: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Acts in the `number`-th batch that is evaluated, before it is."""
    ids, calls = evaluation._ids, [0]

    def counting(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            act()
        return ids(*arguments)

    monkeypatch.setattr(evaluation, "_ids", counting)
    return calls


def die() -> None:
    raise Stopped


def out_of_memory() -> None:
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")


# ---- In an evaluation (of 3 batches; the first one is after step 3 of 6)


def test_dying_in_an_evaluation_loses_nothing(
    whole: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_call(2, die, patch)
        with pytest.raises(Stopped):
            loop.train(make_config(), tmp_path)
    assert steps_of(tmp_path) == [3]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    loop.train(make_config(), tmp_path)
    assert log_of(tmp_path) == log_of(whole)
    assert steps_of(tmp_path) == steps_of(whole)
    same_weights(tmp_path, whole)
    same_weights(tmp_path, whole, "best")


def test_dying_between_the_log_and_the_score_logs_no_evaluation_twice(
    whole: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "add_score", lambda *_: die())
        with pytest.raises(Stopped):
            loop.train(make_config(), tmp_path)
    assert "val/mean_iou" in lines(tmp_path)[-1]
    loop.train(make_config(), tmp_path)
    assert log_of(tmp_path) == log_of(whole)


def test_a_signal_cuts_an_evaluation_short(
    whole: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        calls = at_call(1, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 3 of 6, which is saved in"):
            loop.train(make_config(), tmp_path)
        assert calls == [1], "the second batch is not begun"
    assert steps_of(tmp_path) == [3] and "val/mean_iou" not in lines(tmp_path)[-1]
    assert checkpoint.damage(tmp_path / "checkpoints" / "3") is None
    loop.train(make_config(), tmp_path)
    assert log_of(tmp_path) == log_of(whole)


def test_a_signal_in_the_last_evaluation_leaves_it_for_the_next_start(
    whole: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_call(5, lambda: os.kill(os.getpid(), signal.SIGINT), patch)
        with pytest.raises(Interrupted, match="after step 6 of 6"):
            loop.train(make_config(), tmp_path)
    loop.train(make_config(), tmp_path)
    assert log_of(tmp_path) == log_of(whole)
    assert checkpoint.read_score(tmp_path / "checkpoints" / "6")


def test_out_of_memory_in_an_evaluation_is_one_line_whose_advice_works(
    whole: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_call(1, out_of_memory, patch)
        words = (
            r"the memory does not suffice to evaluate 2 images of 64×128: lower the batch size, now 2 "
            r"\(.*config.evaluation.batch_size\); the checkpoint of step 3 is intact in .* the same command"
        )
        with pytest.raises(TrainingError, match=words) as error:
            loop.train(make_config(), tmp_path)
        assert "\n" not in str(error.value)
    config = make_config()
    config.evaluation.batch_size = 1
    loop.train(config, tmp_path)
    assert log_of(tmp_path) == log_of(whole)
    assert json.loads((tmp_path / "config.json").read_text())["evaluation"]["batch_size"] == 1


def test_out_of_memory_in_a_step_names_what_may_be_changed(
    copied: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = build.make_train_step

    def failing(*args: Any, **kwargs: Any) -> Any:
        def train_step(state: Any, batch: Any) -> Any:
            out_of_memory()

        assert make
        return train_step

    monkeypatch.setattr(build, "make_train_step", failing)
    words = "for a training step: lower config.training.batch_size, .*accumulate_steps.*; there is no checkpoint"
    with pytest.raises(TrainingError, match=words):
        loop.train(make_config(), tmp_path / "new")
    shutil.rmtree(copied / "checkpoints" / "6")
    Path(shutil.copytree(tmp_path / "new" / "checkpoints", copied / "none", dirs_exist_ok=True)).rmdir()


@pytest.mark.parametrize("what", ["sheet", "save"])
def test_a_picture_never_ends_a_run(
    whole: Path,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise MemoryError("too large\nto draw")

    monkeypatch.setattr(figures, what, failing)
    loop.train(make_config(), tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if "could not be drawn" in line]
    assert said == [
        f"{of} could not be drawn (MemoryError: too large to draw)"
        for of in ("the first batch", "the predictions of step 3", "the predictions of step 6")
    ]
    assert log_of(tmp_path) == log_of(whole)


# ---- With other options


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation.batch_size": 3},
        {"evaluation.every_epochs": 1},
        {"checkpoint.keep_latest": 5, "checkpoint.every_steps": 1},
        {"parallelism": "pmap"},
        {"data.num_workers": 1},
        {"log_every_steps": 3},
        {"pictures": 0},
        {"data.val_split": "val[:2]"},
        {"evaluation.base_size": 64, "evaluation.absent": "zero"},
    ],
    ids=str,
)
def test_what_may_change(
    copied: Path, make_config: MakeConfig, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "checkpoints" / "6")
    if 3 not in steps_of(copied):  # The best was the last.
        pytest.skip("the run kept one checkpoint")
    config = make_config()
    config.update_from_flattened_dict(change)
    loop.train(config, copied)
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("goes on from step")]
    assert all(key in said for key in change)
    stored = json.loads((copied / "config.json").read_text())
    about = checkpoint.load_about(checkpoint.find(copied, "latest"))
    assert {**about["config"], "provenance": stored["provenance"]} == stored
    assert lines(copied)[-1]["step"] == 6


@pytest.fixture(scope="module")
def three(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after step 3 of 6."""
    workdir = tmp_path_factory.mktemp("three")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "picture", lambda self, step, *_, **__: os.kill(os.getpid(), signal.SIGTERM) if step else None)
        with pytest.raises(Interrupted):
            loop.train(make_config(), workdir)
    return workdir
