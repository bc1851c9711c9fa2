"""Runs that are stopped where it hurts, and go on: after evaluations, with other options, with damage."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from runs import Stopped, die_in, lines, log_of, same_weights, steps_of
from safetensors.numpy import save_file

import dpanet_jax
from dpanet_jax import checkpoint
from dpanet_jax.checkpoint import Checkpoints
from dpanet_jax.config import ConfigError
from dpanet_jax.evaluation import figures
from dpanet_jax.evaluation.protocols.whole import Whole
from dpanet_jax.training import build, loop
from dpanet_jax.training.errors import Interrupted, TrainingError
from dpanet_jax.training.log import RunLog

MakeConfig = Callable[[], ConfigDict]


@pytest.fixture(scope="module")
def whole(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    loop.train(make_config(), workdir)
    return workdir


@pytest.fixture
def three(whole: Path, make_config: MakeConfig, tmp_path: Path) -> Path:
    """A run that was stopped after step 3 of 6."""
    at_three = whole.parent / "three"
    if not at_three.exists():
        with pytest.MonkeyPatch.context() as patch:
            die_in(4, patch)
            with pytest.raises(Stopped):
                loop.train(make_config(), at_three)
    return Path(shutil.copytree(at_three, tmp_path / "run"))


def at_call(number: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Acts in the `number`-th batch that is evaluated, before it is."""
    ids, calls = Whole.ids, [0]

    def counting(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            act()
        return ids(*arguments)

    monkeypatch.setattr(Whole, "ids", counting)
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
            r"the memory does not suffice for the evaluation: lower the batch size, now 2 "
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
    three: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = build.make_train_step

    def failing(*args: Any, **kwargs: Any) -> Any:
        def train_step(state: Any, batch: Any) -> Any:
            out_of_memory()

        assert make
        return train_step

    monkeypatch.setattr(build, "make_train_step", failing)
    words = "a training step: lower config.training.batch_size, .*accumulate_steps.*; there is no checkpoint"
    with pytest.raises(TrainingError, match=words):
        loop.train(make_config(), tmp_path / "new")
    config = make_config()
    with pytest.raises(TrainingError, match="training step: .*, or with another --workdir lower .*size") as e:
        loop.train(config, three)
    assert "the checkpoint of step 3 is intact" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(28, "No space left on device"),
            "No space left on device: stopped; the checkpoint of step 3",
        ),
        (
            RuntimeError("Worker process was terminated unexpectedly"),
            "set config.data.num_workers lower, or to 0; the check",
        ),
        (MemoryError(), "for a training step: .*; the checkpoint of step 3 is intact"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_run_may_die_of_is_one_line(
    whole: Path,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
) -> None:
    """In the fifth step, where the log is written; the same command then goes on."""
    scalars = RunLog.scalars

    def failing(self: RunLog, step: int, values: Any) -> None:
        if step == 5:
            raise error
        scalars(self, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "scalars", failing)
        with pytest.raises(TrainingError, match=words) as caught:
            loop.train(make_config(), tmp_path)
        assert "\n" not in str(caught.value)
    loop.train(make_config(), tmp_path)
    assert log_of(tmp_path) == log_of(whole)


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
    three: Path, make_config: MakeConfig, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config()
    config.update_from_flattened_dict(change)
    loop.train(config, three)
    said = next(line for line in capsys.readouterr().out.splitlines() if "goes on from step 3" in line)
    assert all(f"{key}: " in said for key in change)
    stored = json.loads((three / "config.json").read_text())
    about = checkpoint.load_about(checkpoint.find(three, "latest"))
    assert {**about["config"], "provenance": stored["provenance"]} == stored
    assert lines(three)[-1]["step"] == 6


def test_weights_to_start_from_are_needed_at_the_start_only(
    whole: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpanet_jax.interop import torch as torch_weights

    file = tmp_path / "weights.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, file)
    config = make_config()
    config.model.pretrained = str(file)
    monkeypatch.setattr(torch_weights, "load", lambda path, variables, missing: variables)
    with monkeypatch.context() as patch:
        at_call(1, die, patch)
        with pytest.raises(Stopped):
            loop.train(config, tmp_path / "run")
    file.unlink()
    for given in (str(file), str(tmp_path / "elsewhere.pth"), ""):
        config.model.pretrained = given
        loop.train(config, tmp_path / "run")
        stored = json.loads((tmp_path / "run" / "config.json").read_text())
        assert stored["model"]["pretrained"] == str(file)
    config.model.pretrained = str(file)
    with pytest.raises(ConfigError, match="there is no such file"):
        loop.train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_without_a_checkpoint_the_advice_works(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    config.optimizer.lr = 1e30
    with pytest.raises(TrainingError, match="there is no checkpoint yet in .*Lower config.optimizer.lr"):
        loop.train(config, tmp_path)
    assert lines(tmp_path) and (tmp_path / "pictures").is_dir()
    config.optimizer.lr = 0.01
    loop.train(config, tmp_path)
    assert [line["step"] for line in lines(tmp_path) if "train/loss" in line] == [1, 2, 3, 4, 5, 6]
    assert json.loads((tmp_path / "config.json").read_text())["optimizer"]["lr"] == 0.01
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


# ---- With damage


def test_a_damaged_newest_checkpoint_costs_only_the_steps_behind_it(
    whole: Path, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config()
    config.checkpoint.keep_latest = 10
    config.checkpoint.every_steps = 1
    loop.train(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "6" / "optimizer")
    (tmp_path / "checkpoints" / "5" / "about" / "metadata").write_text("{")
    capsys.readouterr()
    loop.train(config, tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert len(said) == 2 and all(line.endswith("the run goes on from step 4") for line in said)
    assert log_of(tmp_path) == log_of(whole)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    same_weights(tmp_path, whole)


def test_load_names_a_damaged_checkpoint_and_the_whole_ones(three: Path, make_config: MakeConfig) -> None:
    config = make_config()
    config.checkpoint.keep_latest = 3
    config.checkpoint.every_steps = 1
    loop.train(config, three)
    newest = three / "checkpoints" / "6"
    shutil.rmtree(newest / "model" / "ocdbt.process_0")
    words = r"/6: not a readable checkpoint \(model: .*\); whole: (3, )?4, 5 \(such as --checkpoint=5\)"
    for which in ("latest", 6):
        with pytest.raises(checkpoint.CheckpointError, match=words) as error:
            dpanet_jax.load(three, which)
        assert "\n" not in str(error.value)
    assert dpanet_jax.load(three, 5).step == 5
    shutil.rmtree(newest / "about")
    with pytest.raises(checkpoint.CheckpointError, match="checkpoints/6: not a readable checkpoint"):
        dpanet_jax.load(newest)


def test_load_while_a_run_replaces_the_checkpoint(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is gone when it is read: the next look finds what took its place."""
    find, looks = checkpoint.find, []

    def outdated(path: Any, which: Any) -> Path:
        looks.append(which)
        return whole / "checkpoints" / "5" if len(looks) == 1 else find(path, which)

    monkeypatch.setattr(checkpoint, "find", outdated)
    assert dpanet_jax.load(whole, "latest").step == 6
    assert looks == ["latest", "latest"]
