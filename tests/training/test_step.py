"""The step under jit and pmap on 8 simulated devices against one device; against the loss by hand.

Two convolutions stand for the backbone: batch norm, dropout and two heads behave over devices as they do in
a deep network. What depends on the real network has a test with the smallest one.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpanet_jax import models
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.models.normalize import normalize
from dpanet_jax.models.segmenter import Segmenter, init_variables
from dpanet_jax.training import layout
from dpanet_jax.training.layout import Batch
from dpanet_jax.training.losses import multi_loss, totals
from dpanet_jax.training.optimizer import poly_schedule, sgd
from dpanet_jax.training.options import Loss, Optimizer
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.step import make_train_step, require_every_device, split_parts

pytestmark = pytest.mark.usefixtures("tiny_backbone")

WEIGHTS = {"fused": 1.0, "spatial": 1.0, "channel": 1.0, "auxiliary": 0.4}
# With weights, each device's share of the total differs even more.
WEIGHTED = Loss(class_weights=(0.5, 1.0, 3.0))
OTHERS = {
    "smooth": Loss(class_weights=(0.5, 1.0, 3.0), label_smoothing=0.1, dice=0.5, lovasz=2.0),
    "hard": Loss(focal_gamma=2.0, ohem_threshold=0.3, ohem_min_kept=200),
}
STEPS = 3
SCHEDULE = poly_schedule(0.05, STEPS)
OPTIMIZER = sgd(SCHEDULE, Optimizer())

Run = tuple[list[dict[str, Any]], TrainState]


def build(axis_name: str | None = None, **options: Any) -> Segmenter:
    """The tiny network for 3 classes, in float64, with dropout."""
    defaults = {"name": "fcn", "backbone": "two_convolutions", "dropout": 0.1}
    types = {"dtype": "float64", "param_dtype": "float64"}
    return models.build(3, axis_name=axis_name, **{**defaults, **types, **options})


def batches() -> Iterator[Batch]:
    """Batches of 16 in which the devices' shares of valid pixels differ, one device having none."""
    for step in range(STEPS):
        rng = np.random.default_rng(step)
        label = rng.integers(0, 3, (16, 32, 32)).astype(np.uint8)
        label[2:4] = 255
        for i in range(16):
            label[i, : 2 * i] = 255
        yield {
            "image": rng.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8),
            "label": label,
            "extent": np.tile(np.array([[32, 24]], np.int32), (16, 1)),
        }


@functools.cache
def initial() -> dict[str, Any]:
    """The tiny network's first variables."""
    with jax.enable_x64(True):
        return jax.device_get(init_variables(build(), jax.random.key(0), (32, 32)))


@functools.cache
def run(
    kind: str,
    num_devices: int,
    accumulate_steps: int = 1,
    dropout: float = 0.1,
    options: Loss = WEIGHTED,
) -> Run:
    """The figures of STEPS steps and the final state, as NumPy arrays."""
    with jax.enable_x64(True):
        on_devices = layout.LAYOUTS[kind](jax.devices()[:num_devices])
        state = TrainState.create(initial(), OPTIMIZER)
        step = on_devices.compile(
            make_train_step(
                build(on_devices.axis_name, dropout=dropout),
                OPTIMIZER,
                SCHEDULE,
                WEIGHTS,
                options=options,
                accumulate_steps=accumulate_steps,
                axis_name=on_devices.axis_name,
            ),
            state,
        )
        state = on_devices.put_state(state)
        history = []
        for batch in batches():
            state, metrics = step(state, on_devices.put_batch(batch))
            history.append(jax.device_get(metrics))
        return history, jax.device_get(on_devices.take_state(state))


def assert_same(ours: Run, theirs: Run, rtol: float = 1e-9) -> None:
    (history, state), (other_history, other_state) = ours, theirs
    for metrics, other in zip(history, other_history, strict=True):
        assert metrics.keys() == other.keys()
        for name in metrics:
            np.testing.assert_allclose(metrics[name], other[name], rtol=rtol, err_msg=name)
    assert int(state.step) == int(other_state.step) == STEPS
    for name in ("params", "batch_stats", "opt_state"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-11),
            getattr(state, name),
            getattr(other_state, name),
        )


@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_eight_devices_equal_one(kind: str) -> None:
    assert jax.device_count() == 8, "tests/conftest.py simulates 8 devices"
    assert_same(run(kind, 8), run("jit", 1))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_eight_devices_equal_one_with_other_losses(kind: str, name: str) -> None:
    assert_same(run(kind, 8, options=OTHERS[name]), run("jit", 1, options=OTHERS[name]))


def test_dropout_was_on() -> None:
    """The tests here say nothing of dropout's masks unless these change the numbers."""
    with_dropout, without = (run("jit", 1, dropout=rate)[0][0]["loss"] for rate in (0.1, 0.0))
    assert abs(with_dropout - without) > 1e-3 * without


def test_every_step_and_every_seed_has_a_mask_of_its_own() -> None:
    """By the loss of one batch, which but for dropout depends on the parameters alone."""
    batch = next(batches())

    def loss(step: int, seed: int) -> float:
        train_step = jax.jit(make_train_step(build(), OPTIMIZER, SCHEDULE, WEIGHTS, seed=seed))
        state = dataclasses.replace(TrainState.create(initial(), OPTIMIZER), step=np.int32(step))
        return float(train_step(state, batch)[1]["loss"])

    with jax.enable_x64(True):
        assert loss(0, 0) == loss(0, 0)
        assert len({loss(0, 0), loss(1, 0), loss(0, 1)}) == 3


@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_accumulation_is_the_same_on_eight_devices(kind: str) -> None:
    """Without dropout under pmap: there each device's parts are other rows than those of the whole."""
    if kind == "jit":
        assert_same(run("jit", 8, accumulate_steps=2), run("jit", 1, accumulate_steps=2))
    else:
        ours, theirs = (run(kind, 8, accumulate_steps=2, dropout=0.0) for kind in ("pmap", "jit"))
        assert_same(ours, theirs)


class Frozen:
    """The tiny network with batch norm that uses the running statistics in training too."""

    def __init__(self) -> None:
        self.model = build(dropout=0.0)
        self.dtype, self.align_corners = self.model.dtype, self.model.align_corners

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"fused": LossTerm("logits", 1.0)}

    def apply(
        self, variables: Any, images: jax.Array, train: bool, mutable: list[str], rngs: Any
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        outputs = self.model.apply(variables, images, train=False)
        return outputs, {"batch_stats": variables["batch_stats"]}


def test_accumulated_gradient_is_that_of_the_whole_batch() -> None:
    """By one step's parameters, with statistics that do not depend on the batch: see `Frozen`."""
    batch, options = next(batches()), Loss(label_smoothing=0.1, dice=0.5, lovasz=2.0)
    with jax.enable_x64(True):
        results = []
        for parts in (1, 4):
            step = make_train_step(
                Frozen(), OPTIMIZER, SCHEDULE, WEIGHTS, options=options, accumulate_steps=parts
            )
            state = TrainState.create(initial(), OPTIMIZER)
            results.append(jax.device_get(jax.jit(step)(state, batch)))
    (whole, whole_metrics), (parts, parts_metrics) = results
    for name in ("loss", "grad_norm", "accuracy"):
        np.testing.assert_allclose(parts_metrics[name], whole_metrics[name], rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), parts.params, whole.params)


def test_one_step_by_hand() -> None:
    """Gradient of the loss as written, and torch's update rule for a first step: p − lr·m·(g + d·p)."""
    batch = next(batches())
    with jax.enable_x64(True):
        model = build(dropout=0.0)
        variables = initial()

        def loss(params: Any) -> jax.Array:
            outputs, _ = model.apply(
                {**variables, "params": params},
                normalize(batch["image"], batch["extent"], jnp.float64),
                train=True,
                mutable=["batch_stats"],
            )
            terms = {"fused": LossTerm("logits", 1.0), "auxiliary": LossTerm("auxiliary", 1.0)}
            return multi_loss(outputs, batch["label"], terms, WEIGHTS, totals(batch["label"]))[0]

        value, grads = jax.jit(jax.value_and_grad(loss))(variables["params"])
        step = make_train_step(model, OPTIMIZER, SCHEDULE, WEIGHTS)
        state, metrics = jax.jit(step)(TrainState.create(variables, OPTIMIZER), batch)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-12)
        np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-10)
        assert set(variables["params"]) == {"backbone", "head", "auxiliary_head"}
        for name, branch in variables["params"].items():
            lr = 0.05 * (1 if name == "backbone" else 10)
            jax.tree.map(
                lambda new, old, g, lr=lr: np.testing.assert_allclose(
                    new, old - lr * (g + 1e-4 * old), rtol=1e-9, atol=1e-12
                ),
                state.params[name],
                branch,
                grads[name],
            )


def test_no_valid_pixel_moves_no_parameter_but_by_decay() -> None:
    batch = next(batches())
    batch["label"] = np.full_like(batch["label"], 255)
    with jax.enable_x64(True):
        optimizer = sgd(SCHEDULE, Optimizer(weight_decay=0.0))
        step = jax.jit(make_train_step(build(), optimizer, SCHEDULE, WEIGHTS))
        state, metrics = step(TrainState.create(initial(), optimizer), batch)
        state, metrics = jax.device_get((state, metrics))
    assert metrics["loss"] == 0 and metrics["accuracy"] == 0 and metrics["grad_norm"] == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, initial()["params"])


def test_the_metrics_are_those_of_the_terms_that_the_model_has() -> None:
    """The weights name every term of every network; the model says which of them are its own."""
    history, _ = run("jit", 1)
    assert set(history[0]) == {"loss", "loss/fused", "loss/auxiliary", "accuracy", "lr", "grad_norm"}
    for metrics in history:
        expected = metrics["loss/fused"] + 0.4 * metrics["loss/auxiliary"]
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-12)


def one_step(model: Segmenter, variables: dict[str, Any]) -> tuple[TrainState, dict[str, Any]]:
    """One step of a real network on two images."""
    batch = {key: value[:2] for key, value in next(batches()).items()}
    step = jax.jit(make_train_step(model, OPTIMIZER, SCHEDULE, WEIGHTS))
    return jax.device_get(step(TrainState.create(variables, OPTIMIZER), batch))


def test_remat_changes_no_number() -> None:
    """Of a ResNet, whose blocks are what is computed twice."""
    network = {"backbone": "resnet18", "width": 2, "output_stride": 32, "auxiliary": False}
    with jax.enable_x64(True):
        variables = init_variables(build(**network), jax.random.key(0), (32, 32))
        usual, remat = (one_step(build(**network, remat=value), variables) for value in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), usual, remat)


def test_bfloat16_keeps_the_state_in_float32() -> None:
    """Of DPANet with its modules; the loss is near that of the same weights in float32."""
    network = {"name": "dpanet", "reduce_channels": 8, "dropout": 0.0, "param_dtype": "float32"}
    model = build(**network, dtype="float32")
    variables = init_variables(model, jax.random.key(0), (32, 32))
    # λ and μ start at 0, where the modules have no gradient and change nothing.
    params = jax.tree.map(lambda x: x + 0.5 if x.ndim == 0 else x, variables["params"])
    variables = {**variables, "params": params}
    state, metrics = one_step(build(**network, dtype="bfloat16"), variables)
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.opt_state[1]))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert metrics["loss"].dtype == jnp.float32
    assert set(metrics) >= {"loss/fused", "loss/spatial", "loss/channel", "loss/auxiliary"}
    _, in_float32 = one_step(model, variables)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(metrics[name], in_float32[name], rtol=0.05)


def test_padding_becomes_exactly_zero() -> None:
    images = np.full((1, 4, 4, 3), 124, np.uint8)
    normalised = np.asarray(normalize(images, np.array([[3, 2]])))
    assert (normalised[0, :3, :2] != 0).all()
    assert (normalised[0, 3:] == 0).all() and (normalised[0, :, 2:] == 0).all()


def test_parts_take_rows_from_all_over_the_batch() -> None:
    parts = split_parts(jnp.arange(12), 3)
    np.testing.assert_array_equal(parts, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])


@pytest.mark.parametrize("num_devices", [1, 4])
def test_a_mapped_axis_that_leaves_out_a_device_is_refused(num_devices: int) -> None:
    """Each of the groups would train a network of its own, and nothing would tell."""

    def mapped(x: jax.Array) -> jax.Array:
        require_every_device("data")
        return x

    devices = jax.devices()
    with pytest.raises(RuntimeError, match=f'the axis "data" spans {num_devices} of {len(devices)} devices'):
        jax.pmap(mapped, axis_name="data", devices=devices[:num_devices])(jnp.zeros((num_devices, 1)))
    jax.pmap(mapped, axis_name="data", devices=devices)(jnp.zeros((len(devices), 1)))
