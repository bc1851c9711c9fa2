"""The moving average of the weights: against NumPy, over devices, and where a run evaluates it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from runs import TIMES, Stopped, die_in

import dpanet_jax
from dpanet_jax import checkpoint, models
from dpanet_jax.checkpoint_files import read_raw
from dpanet_jax.config import ConfigError
from dpanet_jax.data.split import open_split
from dpanet_jax.evaluation.evaluate import evaluate
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.training import average, build, layout, loop
from dpanet_jax.training.errors import NotFinite
from dpanet_jax.training.optimizer import make_optimizer, poly_schedule
from dpanet_jax.training.options import Optimizer, Sharding, Training
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("tiny_backbone")

MakeConfig = Callable[[], ConfigDict]
STEPS, DECAY = 3, 0.27
OPTIONS = Training(ema_decay=DECAY, freeze="batch_norms")


def batch(step: int) -> layout.Batch:
    """With ignored pixels; the second one has no others."""
    rng = np.random.default_rng(step)
    label = rng.integers(0, 3, (8, 16, 16)).astype(np.uint8)
    label[:3, :9] = 255
    return {
        "image": rng.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8),
        "label": np.full_like(label, 255) if step == 1 else label,
        "extent": np.full((8, 2), 16, np.int32),
    }


def states(laid: layout.Layout) -> list[TrainState]:
    """Of the tiny network with frozen batch norms in float64: the first state, and that after each step."""
    types = {"dtype": "float64", "param_dtype": "float64"}
    network = {"name": "fcn", "backbone": "two_convolutions", "dropout": 0.0, **types}
    model = models.build(3, axis_name=laid.axis_name, backbone_trains=False, **network)
    schedule = poly_schedule(0.05, STEPS)
    optimizer = make_optimizer(schedule, Optimizer())
    variables = jax.device_get(init_variables(models.build(3, **network), jax.random.key(0), (16, 16)))
    state = TrainState.create(variables, optimizer, OPTIONS)
    step = make_train_step(
        model,
        optimizer,
        schedule,
        {"fused": 1.0, "auxiliary": 0.4},
        freeze=OPTIONS.freeze,
        ema_decay=OPTIONS.ema_decay,
        axis_name=laid.axis_name,
        gather=laid.gather,
        scatter=laid.scatter,
    )
    compiled, found = laid.compile(step, state), [state.to_host()]
    state = laid.put_state(state)
    for number in range(STEPS):
        state, _ = compiled(state, laid.put_batch(batch(number)))
        found.append(laid.take_state(state).to_host())
    return found


@pytest.fixture(scope="module")
def on_one() -> list[TrainState]:
    with jax.enable_x64(True):
        return states(layout.Jit(jax.devices()[:1]))


def test_the_average_written_out(on_one: list[TrainState]) -> None:
    expected = jax.tree.map(np.copy, on_one[0].trained)
    for t, state in enumerate(on_one[1:], start=1):
        d = min(DECAY, (1 + t) / (10 + t))
        expected = jax.tree.map(lambda e, w, d=d: d * e + (1 - d) * w, expected, state.trained)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), state.ema, expected)
        assert state.variables is state.ema
    assert (1 + STEPS) / (10 + STEPS) > DECAY > 2 / 11, "both branches of the minimum are met"
    last = on_one[-1]
    for part, name in (("params", "scale"), ("batch_stats", "mean"), ("batch_stats", "var")):
        ours, theirs = (tree[part]["head"]["bn"][name] for tree in (last.ema, last.trained))
        assert not np.allclose(ours, theirs)
    for part in ("params", "batch_stats"):  # What is frozen keeps every bit.
        frozen = [state.ema[part]["backbone"]["norm1"] for state in (on_one[0], last)]
        jax.tree.map(np.testing.assert_array_equal, *frozen)


@pytest.mark.parametrize("state", ["replicas", "parameters"])
def test_eight_devices_average_alike(state: Any, on_one: list[TrainState]) -> None:
    with jax.enable_x64(True):
        several = layout.Pmap() if state == "replicas" else layout.Jit(sharding=Sharding(state=state))
        ours = states(several)

    def same(ours: np.ndarray, theirs: np.ndarray) -> None:
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)

    jax.tree.map(same, ours[-1], on_one[-1])


@pytest.mark.parametrize("split", ["optimizer", "parameters"])
def test_a_device_keeps_a_part_of_the_average(split: Any) -> None:
    params = {"w": np.ones((16, 3))}
    state = TrainState(np.int32(1), params, {"mean": np.ones(8)}, (), {"params": params, "batch_stats": {}})
    laid = layout.Jit(sharding=Sharding(state=split)).put_state(state)
    assert laid.ema["params"]["w"].addressable_shards[0].data.shape == (2, 3)


def test_a_decay_near_1_keeps_its_digits() -> None:
    """In float32, in which 1 − 0.99999 has lost three of them."""
    ours = average.updated(jnp.zeros(1), jnp.ones(1), jnp.int32(10**7), 0.99999)
    np.testing.assert_allclose(ours, 1e-5, rtol=1e-6)


def test_an_average_that_is_not_finite_is_named() -> None:
    state = TrainState(np.int32(4), {}, {}, (), {"params": {"w": np.array([1, np.inf])}, "batch_stats": {}})
    with pytest.raises(NotFinite, match="ema/params/w is not finite after step 4"):
        state.require_finite()


# ---- In a run


@pytest.fixture
def make(make_config: MakeConfig) -> MakeConfig:
    def make() -> ConfigDict:
        config = make_config()
        config.training.steps = 4
        config.evaluation.every_epochs = 2
        config.checkpoint.keep_latest = 2
        config.pictures = 0
        config.training.ema_decay = 0.5
        return config

    return make


def values_of(workdir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def test_a_run_evaluates_and_saves_the_average_and_goes_on(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after step 2 it is, to the last bit, the run that was not; also past damage of its weights."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    loop.train(make(), whole)
    model = dpanet_jax.load(whole, "latest")
    split = open_split("streets", "val", model.config.data.data_dir)
    figures = evaluate(model.protocol, model.device_variables, split, 2).matrix.compute()
    assert figures["mean_iou"] == values_of(whole)[-1]["val/mean_iou"]
    trained = read_raw(whole / "checkpoints" / "4", "trained")
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), model.variables, trained)
    assert all(jax.tree.leaves(differ))

    with monkeypatch.context() as patch:
        die_in(3, patch)
        with pytest.raises(Stopped):
            loop.train(make(), run)
    loop.train(make(), run)
    assert values_of(run) == values_of(whole)
    for name in ("model", "optimizer", "trained"):
        ours, theirs = (read_raw(path / "checkpoints" / "4", name) for path in (run, whole))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)

    arrays = max((run / "checkpoints" / "4" / "trained").rglob("*"), key=lambda path: path.stat().st_size)
    arrays.write_bytes(arrays.read_bytes()[:-9])
    assert "trained: " in str(checkpoint.damage(run / "checkpoints" / "4"))
    config = make()
    config.training.ema_decay = 0.0
    with pytest.raises(ConfigError, match="training.ema_decay: 0.5, now 0.0"):
        loop.train(config, run)
    loop.train(make(), run)
    assert values_of(run) == values_of(whole) and (run / "damaged" / "4").is_dir()


def test_without_an_average_a_checkpoint_has_its_old_form(make: MakeConfig, tmp_path: Path) -> None:
    config = make()
    config.training.ema_decay = 0.0
    state = build.build(config).initial_state
    assert state.ema is None and state.items.keys() == {"model", "optimizer"}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, {"config": {}, "classes": {}})
    folders = {path.name for path in (tmp_path / "checkpoints" / "0").iterdir() if path.is_dir()}
    assert folders == {"model", "optimizer", "about"}
