"""Images and state split over 8 simulated devices against one device, in float64: every number of two steps.

Of the real networks, as small as they get. `test_step` has the batch alone over devices.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from runs import TIMES

from dpanet_jax import models
from dpanet_jax.checkpoint import Checkpoints, load_variables
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.training import layout
from dpanet_jax.training.build import build
from dpanet_jax.training.loop import train
from dpanet_jax.training.optimizer import make_optimizer, poly_schedule
from dpanet_jax.training.options import Loss, Optimizer, Sharding
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.step import make_train_step

STEPS, BATCH, HEIGHT, WIDTH = 2, 8, 64, 40
WEIGHTS = {"fused": 1.0, "spatial": 1.0, "channel": 1.0, "auxiliary": 0.4}
WHOLE = Sharding()

pytestmark = pytest.mark.usefixtures("tiny_backbone")

# What is trained, and how.
SMALL: dict[str, Any] = {"backbone": "resnet18", "width": 4}
DPANET: dict[str, Any] = {**SMALL, "name": "dpanet", "output_stride": 8, "reduce_channels": 8}
FCN: dict[str, Any] = {**SMALL, "name": "fcn", "output_stride": 16, "auxiliary": False, "remat": True}
TINY: dict[str, Any] = {"backbone": "two_convolutions", "name": "fcn", "auxiliary": False}
RUNS = {
    "dpanet": (DPANET, Optimizer(), Loss(), 1),
    # LARS needs the norm of each whole kernel.
    "fcn": (FCN, Optimizer(name="lars", lr=5.0), Loss(), 2),
    # OHEM compares the pixels of all devices, Lovász those of an image, of which each device has some rows.
    "adamw": (
        TINY,
        Optimizer(name="adamw", eps=1e-4),
        Loss(
            (0.5, 1.0, 3.0), label_smoothing=0.1, ohem_threshold=0.3, ohem_min_kept=100, dice=0.5, lovasz=2.0
        ),
        1,
    ),
}

Metrics = list[dict[str, Any]]


@functools.cache
def compiled(run: str, num_devices: int, sharding: Sharding) -> tuple[layout.Jit, Any, TrainState]:
    """The layout, its compiled step, and the first state in host memory."""
    options, optimizer_options, losses, accumulate_steps = RUNS[run]
    types = {"dtype": "float64", "param_dtype": "float64"}
    model = models.build(3, dropout=0.1, **types, **options)
    schedule = poly_schedule(0.05, STEPS)
    optimizer = make_optimizer(schedule, optimizer_options)
    variables = jax.device_get(init_variables(model, jax.random.key(0), (HEIGHT, WIDTH)))
    # λ and μ start at 0, where the modules have no gradient and change nothing.
    params = jax.tree.map(lambda x: x + 0.5 if x.ndim == 0 else x, variables["params"])
    state = TrainState.create({**variables, "params": params}, optimizer)
    laid = layout.Jit(jax.devices()[:num_devices], sharding)
    train_step = make_train_step(
        model,
        optimizer,
        schedule,
        WEIGHTS,
        options=losses,
        accumulate_steps=accumulate_steps,
        gather=laid.gather,
        scatter=laid.scatter,
    )
    return laid, laid.compile(train_step, state), state


def batch(step: int) -> layout.Batch:
    """Every image has another number of valid pixels, one has none, and one has none but in its last rows."""
    rng = np.random.default_rng(step)
    label = rng.integers(0, 3, (BATCH, HEIGHT, WIDTH)).astype(np.uint8)
    for i in range(BATCH):
        label[i, : 7 * i] = 255
    label[2] = 255
    label[7, :60] = 255
    return {
        "image": rng.integers(0, 256, (BATCH, HEIGHT, WIDTH, 3)).astype(np.uint8),
        "label": label,
        "extent": np.tile(np.array([[HEIGHT - 5, WIDTH - 3]], np.int32), (BATCH, 1)),
    }


def steps(run: str, num_devices: int, sharding: Sharding, state: Any = None) -> tuple[Metrics, TrainState]:
    """The figures of the steps from `state` (None: the first) on, and the final state in host memory."""
    with jax.enable_x64(True):
        laid, step, first = compiled(run, num_devices, sharding)
        state = laid.put_state(first if state is None else state)
        history = []
        while int(state.step) < STEPS:
            state, metrics = step(state, laid.put_batch(batch(int(state.step))))
            history.append(jax.device_get(metrics))
        return history, laid.take_state(state).to_host()


@functools.cache
def on_one_device(run: str) -> tuple[Metrics, TrainState]:
    return steps(run, 1, WHOLE)


def assert_same(ours: tuple[Metrics, TrainState], theirs: tuple[Metrics, TrainState]) -> None:
    assert [each.keys() for each in ours[0]] == [each.keys() for each in theirs[0]]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), ours, theirs)


@pytest.mark.parametrize(
    ("run", "sharding"),
    [
        ("dpanet", Sharding(state="parameters")),
        ("dpanet", Sharding(space=4, state="optimizer")),
        ("fcn", Sharding(space=2, state="parameters")),
        ("adamw", Sharding(space=2, state="optimizer")),
    ],
)
def test_the_numbers_are_those_of_one_device(run: str, sharding: Sharding) -> None:
    assert jax.device_count() == 8, "tests/conftest.py simulates 8 devices"
    assert_same(steps(run, 8, sharding), on_one_device(run))


def test_what_is_split_lies_in_parts() -> None:
    """Kernels and their momentum in as many parts as images are; nothing else."""
    with jax.enable_x64(True):
        laid, step, first = compiled("dpanet", 8, Sharding(space=4, state="optimizer"))
        state, _ = step(laid.put_state(first), laid.put_batch(batch(0)))
        kernels, momentum = (
            jax.tree.leaves(tree) for tree in (state.params, [leaf for leaf in state.opt_state[1]])
        )
        assert all(leaf.is_fully_replicated for leaf in kernels)
        assert len(kernels) == len(momentum)
        for leaf in momentum:
            part = leaf.sharding.shard_shape(leaf.shape)
            assert leaf.size // np.prod(part) == (2 if leaf.ndim > 1 else 1)
        laid, _, _ = compiled("dpanet", 8, Sharding(state="parameters"))
        state = laid.put_state(first)
        for leaf in jax.tree.leaves(state.params):
            axes = [length for length in leaf.shape if length % 8 == 0]
            part = leaf.sharding.shard_shape(leaf.shape)
            assert leaf.size // np.prod(part) == (8 if leaf.ndim > 1 and axes else 1)
            if leaf.ndim > 1 and axes:
                assert max(axes) // 8 in part
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.batch_stats))


def test_a_run_goes_on_with_another_sharding(tmp_path: Path) -> None:
    """Of the checkpoint of one step, which holds whole arrays."""
    split = Sharding(state="parameters")
    with jax.enable_x64(True):
        laid, step, first = compiled("dpanet", 8, split)
        state, metrics = step(laid.put_state(first), laid.put_batch(batch(0)))
        metrics = jax.device_get(metrics)
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(laid.take_state(state), {"config": {}, "classes": {}, "provenance": {}})
        with Checkpoints(tmp_path) as checkpoints:
            restored = TrainState.from_checkpoint(checkpoints.restore(first))
    for num_devices, sharding in ((8, Sharding(space=4, state="optimizer")), (1, WHOLE), (8, split)):
        history, final = steps("dpanet", num_devices, sharding, restored)
        assert_same(([metrics, *history], final), on_one_device("dpanet"))


def test_a_run_is_the_same_by_its_config(make_config: Callable[[], ConfigDict], tmp_path: Path) -> None:
    """The options reach the run: in float32, whose sums differ in their last digits."""
    results = {}
    for name, options in {"whole": {}, "split": {"space": 2, "state": "parameters"}}.items():
        config = make_config()
        config.training.steps = 2
        config.sharding.update(options)
        results[name] = train(config, tmp_path / name)["pixel_accuracy"]
    assert results["split"] == pytest.approx(results["whole"], abs=2e-3)
    like = build(make_config()).initial_state.variables
    whole, split = (
        load_variables(tmp_path / name / "checkpoints" / "2", like)["params"] for name in ("whole", "split")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), split, whole)


def test_a_run_with_other_losses_is_the_same_under_both_layouts(
    make_config: Callable[[], ConfigDict], tmp_path: Path
) -> None:
    """By its config, in float64; `test_the_numbers_are_those_of_one_device` has images that are split."""
    logs, weights = {}, {}
    for name in ("jit", "pmap"):
        config = make_config()
        config.parallelism = name
        config.training.steps, config.pictures, config.data.val_split = 2, 0, "val[:2]"
        config.model.dtype = "float64"
        config.optimizer.update({"name": "adamw", "schedule": "cosine", "eps": 1e-4})
        config.loss.update({"focal_gamma": 2.0, "dice": 0.5, "lovasz": 1.0})
        config.loss.update({"ohem_threshold": 0.05, "ohem_min_kept": 200})
        train(config, tmp_path / name)
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        logs[name] = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
        with jax.enable_x64(True):
            like = build(config).initial_state.variables
            weights[name] = load_variables(tmp_path / name / "checkpoints" / "2", like)
    assert [line["step"] for line in logs["jit"]] == [1, 2, 2], "two steps and an evaluation"
    for ours, theirs in zip(logs["pmap"], logs["jit"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), weights["pmap"], weights["jit"]
    )
