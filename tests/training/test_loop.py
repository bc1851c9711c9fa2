"""Whole runs of a tiny network on a small drawn data set: resume, faults, and what a run leaves."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from runs import lines, log_of

import dpanet_jax
from dpanet_jax import checkpoint, version
from dpanet_jax.checkpoint import Checkpoints
from dpanet_jax.config import ConfigError
from dpanet_jax.data.split import open_split
from dpanet_jax.errors import UsageError
from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.training import build, layout, loop
from dpanet_jax.training.errors import Interrupted, TrainingError
from dpanet_jax.training.log import RunLog

MakeConfig = Callable[[], ConfigDict]


def figures_of(workdir: Path) -> dict[tuple[int, str], dict[str, float]]:
    """{step: every train and val figure but those of time} of a run."""
    return {
        (line["step"], kind): {k: v for k, v in line.items() if k.startswith(kind)}
        for line in log_of(workdir)
        for kind in ("train", "val")
        if any(k.startswith(kind) for k in line)
    }


@pytest.fixture(scope="module")
def whole(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that was never stopped: its workdir and last evaluation."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(make_config(), workdir)


def test_a_run_leaves_what_a_person_wants(whole: tuple[Path, dict[str, Any]]) -> None:
    workdir, figures = whole
    assert (workdir / "pictures" / "training_batch.png").stat().st_size > 1000
    pictures = sorted((workdir / "pictures").glob("step_*.png"))
    assert [p.stem for p in pictures] == ["step_0000003", "step_0000006"]
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.width > 3 * 300 and picture.height > 2 * 150
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    train = [line for line in lines(workdir) if "train/loss" in line]
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5, 6]
    assert train[0].keys() >= {"train/loss", "train/loss/auxiliary", "train/lr", "train/images_per_second"}
    rates = [0.02 * (1 - s / 6) ** 0.9 for s in range(6)]
    np.testing.assert_allclose([line["train/lr"] for line in train], rates, rtol=1e-6)
    assert lines(workdir)[-1]["val/mean_iou"] == figures["mean_iou"]


def test_a_run_says_where_it_comes_from(whole: tuple[Path, dict[str, Any]]) -> None:
    stored = json.loads((whole[0] / "config.json").read_text())
    about = checkpoint.load_about(checkpoint.find(whole[0]))
    assert stored["provenance"] == about["provenance"] == version.provenance()
    assert about["provenance"]["version"] == dpanet_jax.__version__
    assert {**about["config"], "provenance": about["provenance"]} == stored


def test_the_figure_in_training_is_that_of_an_independent_count(whole: tuple[Path, dict[str, Any]]) -> None:
    workdir, figures = whole
    model = dpanet_jax.load(workdir, "latest")
    split = open_split("streets", "val", model.config.data.data_dir)
    counts = np.zeros((19, 19), np.int64)
    for example in (split[i] for i in range(len(split))):
        valid = example["label"] < 19
        np.add.at(counts, (example["label"][valid], model.predict(example["image"])[valid]), 1)
    assert ConfusionMatrix(19, counts).compute()["mean_iou"] == figures["mean_iou"]


def test_resume_is_the_run_that_was_never_stopped(
    whole: tuple[Path, dict[str, Any]],
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped by SIGTERM in the middle and resumed: the same figures and weights, to the last bit."""
    original = RunLog.scalars

    def stop_at_two(self: RunLog, step: int, values: Mapping[str, float]) -> None:
        original(self, step, values)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "scalars", stop_at_two)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step [23] of 6, which is saved in"):
            loop.train(make_config(), tmp_path)
    assert lines(tmp_path)[-1]["step"] < 6
    loop.train(make_config(), tmp_path)
    workdir, _ = whole
    assert figures_of(tmp_path) == figures_of(workdir)
    ours, theirs = (dpanet_jax.load(path, "latest").variables for path in (tmp_path, workdir))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_pmap_trains_the_same_network(
    whole: tuple[Path, dict[str, Any]], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config()
    config.parallelism = "pmap"
    loop.train(config, tmp_path)
    ours, theirs = figures_of(tmp_path), figures_of(whole[0])
    np.testing.assert_allclose(ours[1, "train"]["train/loss"], theirs[1, "train"]["train/loss"], rtol=1e-5)
    np.testing.assert_allclose(ours[6, "train"]["train/loss"], theirs[6, "train"]["train/loss"], rtol=1e-3)
    ours, theirs = (dpanet_jax.load(path, "latest").variables["params"] for path in (tmp_path, whole[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), ours, theirs)


def test_a_finished_run_is_only_evaluated_again(
    whole: tuple[Path, dict[str, Any]], make_config: MakeConfig
) -> None:
    workdir, figures = whole
    before = (workdir / "metrics.jsonl").read_text()
    assert loop.train(make_config(), workdir)["mean_iou"] == figures["mean_iou"]
    assert (workdir / "metrics.jsonl").read_text() == before


def test_a_run_that_goes_on_needs_no_pretrained_weights(
    whole: tuple[Path, dict[str, Any]],
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    original = loop.build

    def recording(config: ConfigDict, *, begins: bool, ahead: bool) -> build.Parts:
        asked.append(begins)
        raise TrainingError("enough")

    monkeypatch.setattr(loop, "build", recording)
    for workdir in (tmp_path, whole[0]):
        with pytest.raises(TrainingError, match="enough"):
            loop.train(make_config(), workdir)
    assert asked == [True, False] and original is build.build


def test_what_cannot_run_leaves_nothing(
    whole: tuple[Path, dict[str, Any]], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config()
    config.optimizer.lr = 0.5
    with pytest.raises(ConfigError, match=r"another config \(optimizer.lr: 0.02, now 0.5\)"):
        loop.train(config, whole[0])
    config.training.batch_size = 12
    with pytest.raises(ConfigError, match="batch_size=12 is not a multiple of 8 devices"):
        loop.train(config, tmp_path / "run")
    with pytest.raises(UsageError, match="only local paths"):
        loop.train(make_config(), "az://bucket/run")
    assert not (tmp_path / "run").exists()


def poisoned(name: str, at_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From `at_step` on, a step's figure `name` and all of its parameters are not numbers."""
    make = build.make_train_step

    def make_poisoned(*args: Any, **kwargs: Any) -> layout.TrainStep:
        step = make(*args, **kwargs)

        def train_step(state: Any, batch: layout.Batch) -> tuple[Any, layout.Metrics]:
            state, metrics = step(state, batch)
            bad = jax.numpy.where(state.step >= at_step, jax.numpy.nan, 1.0)
            params = jax.tree.map(lambda p: p * bad, state.params)
            return dataclasses.replace(state, params=params), {**metrics, name: metrics[name] * bad}

        return train_step

    monkeypatch.setattr(build, "make_train_step", make_poisoned)


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_what_is_not_finite_stops_the_run_and_is_never_saved(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A finite loss with a gradient that is not: its update has spoilt the parameters already."""
    config = make_config()
    config.evaluation.every_epochs = 6
    config.checkpoint.every_steps = 1
    config.checkpoint.keep_latest = 10
    poisoned(name, 4, monkeypatch)
    words = (
        f"{name} is nan at step 4 .*: stopped; the checkpoint of step 3 is intact in .*"
        "With another --workdir: lower config.optimizer.lr"
    )
    with pytest.raises(TrainingError, match=words):
        loop.train(config, tmp_path)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["1", "2", "3"]
    variables = dpanet_jax.load(tmp_path, "latest").variables
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


def test_before_the_first_checkpoint_the_message_says_so(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned("grad_norm", 1, monkeypatch)
    with pytest.raises(TrainingError, match="grad_norm is nan at step 1 .*there is no checkpoint yet in"):
        loop.train(make_config(), tmp_path)
    assert not any(p.name.isdigit() for p in (tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("stopped", [False, True])
def test_no_checkpoint_is_ahead_of_its_log(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """However seldom the log is written otherwise; also where a signal makes the checkpoint."""
    config = make_config()
    config.training.steps = 5
    config.evaluation.every_epochs = 5
    config.checkpoint.every_steps = 2
    config.log_every_steps = 100
    seen = []
    save, put_batch = Checkpoints.save, layout.Jit.put_batch

    def noting(self: Checkpoints, state: Any, *args: Any) -> None:
        logged = [line["step"] for line in lines(tmp_path) if "train/loss" in line]
        seen.append((int(state.step), logged))
        save(self, state, *args)

    def signalling(self: layout.Jit, batch: layout.Batch) -> layout.Batch:
        if stopped and len(seen) == 1:  # The third batch.
            os.kill(os.getpid(), signal.SIGINT)
        return put_batch(self, batch)

    monkeypatch.setattr(Checkpoints, "save", noting)
    monkeypatch.setattr(layout.Jit, "put_batch", signalling)
    if stopped:
        with pytest.raises(Interrupted, match="stopped by SIGINT after step 3 of 5"):
            loop.train(config, tmp_path)
        assert seen == [(2, [2]), (3, [2, 3])]
    else:
        loop.train(config, tmp_path)
        assert seen == [(2, [2]), (4, [2, 4]), (5, [2, 4, 5])]


def test_the_batch_that_is_drawn_is_also_trained_on(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch of a run is the first of its stream, with the picture and without."""
    config = make_config()
    config.training.steps = 2
    trained = []
    put_batch = layout.Jit.put_batch

    def noting(self: layout.Jit, batch: layout.Batch) -> layout.Batch:
        trained.append({key: np.array(value) for key, value in batch.items()})
        return put_batch(self, batch)

    monkeypatch.setattr(layout.Jit, "put_batch", noting)
    loop.train(config, tmp_path)
    assert (tmp_path / "pictures" / "training_batch.png").is_file()
    stream = build.build(config).batches
    for batch in trained:
        jax.tree.map(np.testing.assert_array_equal, batch, next(stream))
    assert len(trained) == 2
    about = checkpoint.load_about(checkpoint.find(tmp_path))
    assert about["data"]["next_batch"] == 2


def test_pictures_come_from_the_evaluations_own_pass(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the 5 validation images goes through the network once an evaluation, drawn or not."""
    seen: list[int] = []

    class Counting:
        def __init__(self, protocol: Any) -> None:
            self._protocol = protocol

        def __getattr__(self, name: str) -> Any:
            return getattr(self._protocol, name)

        def each(self, batches: Iterable[np.ndarray], variables: Any) -> Iterator[np.ndarray]:
            def counted() -> Iterator[np.ndarray]:
                for images in batches:
                    seen.append(len(images))
                    yield images

            return self._protocol.each(counted(), variables)

        def ids(self, images: np.ndarray, variables: Any) -> np.ndarray:
            raise AssertionError("an evaluation is one pass over all batches")

        def probabilities(self, images: np.ndarray, variables: Any) -> np.ndarray:
            raise AssertionError("training needs no probabilities")

    def counting(*args: Any, **kwargs: Any) -> build.Parts:
        parts = build.build(*args, **kwargs)
        return dataclasses.replace(parts, protocol=Counting(parts.protocol))

    monkeypatch.setattr(loop, "build", counting)
    loop.train(make_config(), tmp_path)
    assert len(list((tmp_path / "pictures").glob("step_*.png"))) == 2
    assert seen == 2 * [2, 2, 2]


def test_predictions_are_drawn_beside_their_own_image(whole: tuple[Path, dict[str, Any]]) -> None:
    """The picture's last column against the ids of the model that was saved with it."""
    from dpanet_jax.data.classes import colorize
    from dpanet_jax.evaluation import figures

    model = dpanet_jax.load(whole[0], "latest")
    split = open_split("streets", "val", model.config.data.data_dir)
    examples = [split[i] for i in (0, 2)]
    expected = figures.sheet(
        {
            "image": [example["image"] for example in examples],
            "label": [colorize(example["label"], model.classes) for example in examples],
            "prediction": [colorize(model.predict(e["image"]), model.classes) for e in examples],
        }
    )
    with Image.open(whole[0] / "pictures" / "step_0000006.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), expected)
