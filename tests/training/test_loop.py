"""Whole runs on a small drawn data set: resume, faults, and what a run leaves in its workdir."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from PIL import Image

import dpanet_jax
from dpanet_jax import checkpoint
from dpanet_jax.config import ConfigError
from dpanet_jax.data import pipeline
from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.training import loop
from dpanet_jax.training.log import RunLog
from dpanet_jax.training.state import TrainState


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir):
    """{step: every train and val figure but the speed} of a run."""
    return {
        (line["step"], kind): {k: v for k, v in line.items() if k.startswith(kind) and "images" not in k}
        for line in lines(workdir)
        for kind in ("train", "val")
        if any(k.startswith(kind) for k in line)
    }


@pytest.fixture(scope="module")
def whole(tiny_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    figures = loop.train(tiny_config(), workdir)
    return workdir, figures


def test_a_run_leaves_what_a_person_wants(whole):
    workdir, figures = whole
    assert (workdir / "pictures" / "training_batch.png").stat().st_size > 1000
    pictures = sorted((workdir / "pictures").glob("step_*.png"))
    assert [p.stem for p in pictures] == ["step_0000003", "step_0000006"]
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    train = [line for line in lines(workdir) if "train/loss" in line]
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5, 6]
    assert train[0].keys() >= {"train/loss", "train/loss/auxiliary", "train/lr", "train/images_per_second"}
    np.testing.assert_allclose([line["train/lr"] for line in train],
                               [0.02 * (1 - s / 6) ** 0.9 for s in range(6)], rtol=1e-6)  # fmt: skip
    assert lines(workdir)[-1]["val/mean_iou"] == figures["mean_iou"]


def test_the_figure_in_training_is_that_of_an_independent_count(whole, tiny_config):
    workdir, figures = whole
    model = dpanet_jax.load(workdir, "latest")
    split = pipeline.open_split("streets", "val", model.config.data.data_dir)
    counts = np.zeros((19, 19), np.int64)
    for example in (split[i] for i in range(len(split))):
        valid = example["label"] < 19
        np.add.at(counts, (example["label"][valid], model.predict(example["image"])[valid]), 1)
    assert ConfusionMatrix(19, counts).compute()["mean_iou"] == figures["mean_iou"]


def test_resume_is_the_run_that_was_never_stopped(whole, tiny_config, tmp_path):
    """Stopped by SIGTERM in the middle and resumed with other workers: same losses, to the last bit."""
    config = tiny_config()
    original = RunLog.scalars

    def stop_at_two(self, step, values):
        original(self, step, values)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    RunLog.scalars = stop_at_two
    try:
        with pytest.raises(loop.Interrupted, match="stopped by SIGTERM after step [23] of 6"):
            loop.train(config, tmp_path)
    finally:
        RunLog.scalars = original
    assert lines(tmp_path)[-1]["step"] < 6
    loop.train(config, tmp_path)
    workdir, _ = whole
    assert losses(tmp_path) == losses(workdir)
    ours, theirs = (dpanet_jax.load(path, "latest").variables for path in (tmp_path, workdir))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_finished_run_is_only_evaluated_again(whole, tiny_config):
    workdir, figures = whole
    before = (workdir / "metrics.jsonl").read_text()
    assert loop.train(tiny_config(), workdir)["mean_iou"] == figures["mean_iou"]
    assert (workdir / "metrics.jsonl").read_text() == before


def test_a_workdir_with_another_config_is_refused(whole, tiny_config):
    workdir, _ = whole
    config = tiny_config()
    config.optimizer.lr = 0.5
    with pytest.raises(ConfigError, match=r"another config \(optimizer.lr: 0.02, now 0.5\)"):
        loop.train(config, workdir)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_config, tmp_path):
    config = tiny_config()
    config.training.steps = 6
    config.checkpoint.every_steps = 1
    loop_config = config.copy_and_resolve_references()
    make = loop.make_train_step

    def poisoned(*args, **kwargs):
        step = make(*args, **kwargs)

        def train_step(state, batch):
            state, metrics = step(state, batch)
            bad = jax.numpy.where(state.step == 4, jax.numpy.nan, 1.0)
            return state.replace(params=jax.tree.map(lambda p: p * bad, state.params)), {
                **metrics, "loss": metrics["loss"] * bad}  # fmt: skip

        return train_step

    loop.make_train_step = poisoned
    try:
        with pytest.raises(
            loop.TrainingError, match="loss is nan at step 4 .*checkpoint of step 3 is intact"
        ):
            loop.train(loop_config, tmp_path)
    finally:
        loop.make_train_step = make
    assert checkpoint.find(tmp_path, "latest").name == "3"
    variables = dpanet_jax.load(tmp_path, "latest").variables
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


def test_the_latest_and_the_best_are_kept(tmp_path):
    """Scores that fall after the second, one step without any, and a resume: the best and the last stay."""

    def save(scores):
        manager = checkpoint.Checkpoints(tmp_path)
        for step, score in scores:
            array = {"w": np.full(3, step, np.float32)}
            state = TrainState(np.int32(step), array, {}, {"m": np.zeros(2)})
            manager.save(state, {"config": {}}, score)
        manager.close()
        return sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())

    assert save([(1, 0.2), (2, 0.9), (3, 0.5), (4, None)]) == ["2", "4"]
    assert checkpoint.find(tmp_path).name == "2"
    assert save([(5, 0.6), (6, 0.8)]) == ["2", "6"]
    assert checkpoint.find(tmp_path).name == "2"
    assert checkpoint.find(tmp_path, "latest").name == "6"
    assert checkpoint.find(tmp_path / "checkpoints" / "6").name == "6"
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint '7'; there is best, latest, 2, 6"):
        checkpoint.find(tmp_path, "7")


def test_what_is_no_workdir(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="not a workdir"):
        dpanet_jax.load(tmp_path)


def test_predict_checks_its_image(whole):
    model = dpanet_jax.load(whole[0])
    with pytest.raises(ValueError, match=r"uint8 \(height, width, 3\), RGB; got float64"):
        model.predict(np.zeros((4, 4, 3)))
    images = [np.zeros((32, 64, 3), np.uint8), np.zeros((48, 40, 3), np.uint8)]
    assert [p.shape for p in model.predict(images)] == [(32, 64), (48, 40)]
    assert model.predict(images[0]).dtype == np.uint8


def test_pretrained_weights_are_where_training_starts(tiny_config, tmp_path):
    """A file made from one run's backbone, loaded by another of learning rate 0: the weights stay."""
    from safetensors.numpy import save_file

    from dpanet_jax.interop import torch as torch_weights
    from dpanet_jax.models.segmenter import init_variables

    config = tiny_config()
    config.optimizer.lr = 0.0
    config.training.steps = 1
    model = loop.build_model(config, 19)
    variables = jax.device_get(init_variables(model, jax.random.key(99), (64, 64)))
    state_dict = torch_weights.to_state_dict(variables)
    save_file({k: np.ascontiguousarray(v) for k, v in state_dict.items()}, tmp_path / "w.safetensors")
    config.model.pretrained = str(tmp_path / "w.safetensors")
    loop.train(config, tmp_path / "run")
    trained = dpanet_jax.load(tmp_path / "run").variables["params"]["backbone"]
    jax.tree.map(np.testing.assert_array_equal, trained, variables["params"]["backbone"])


def test_pictures_are_images(whole):
    with Image.open(next((whole[0] / "pictures").glob("step_*.png"))) as picture:
        assert picture.width > 3 * 300
