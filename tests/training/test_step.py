"""The step under jit and pmap on 8 simulated devices against one device; against the loss by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpanet_jax import models
from dpanet_jax.models.normalize import normalize
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.training import parallel
from dpanet_jax.training.losses import count_valid, multi_loss
from dpanet_jax.training.optimizer import poly_schedule, sgd
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.step import make_train_step, split_parts

WEIGHTS = {"fused": 1.0, "spatial": 1.0, "channel": 1.0, "auxiliary": 0.4}
STEPS = 3


def build(axis_name=None, **options):
    defaults = dict(backbone="resnet18", width=4, output_stride=16, reduce_channels=4, dropout=0.1)
    defaults.update(dtype="float64", param_dtype="float64")
    return models.build(3, axis_name=axis_name, **{**defaults, **options})


def batches():
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
def initial():
    with jax.enable_x64(True):
        variables = init_variables(build(), jax.random.key(0), (32, 32))
        # λ and μ start at 0, where the modules have no gradient worth comparing.
        params = jax.tree.map(lambda x: x + 0.05 if x.ndim == 0 else x, variables["params"])
        return jax.device_get({**variables, "params": params})


def run(kind, num_devices, accumulate_steps=1, **options):
    """(losses, final state) of STEPS steps, the state as NumPy arrays."""
    with jax.enable_x64(True):
        on = {"jit": parallel.Jit, "pmap": parallel.Pmap}[kind](jax.devices()[:num_devices])
        schedule = poly_schedule(0.05, STEPS)
        optimizer = sgd(schedule)
        step = on.compile(
            make_train_step(
                build(on.axis_name, **options),
                optimizer,
                schedule,
                WEIGHTS,
                class_weights=(0.5, 1.0, 3.0),  # Then each device's share of the total differs even more.
                accumulate_steps=accumulate_steps,
                axis_name=on.axis_name,
            )
        )
        state = on.put_state(TrainState.create(initial(), optimizer))
        history = []
        for batch in batches():
            state, metrics = step(state, on.put_batch(batch))
            history.append(jax.device_get(metrics))
        return history, jax.device_get(on.take_state(state))


def assert_same(ours, theirs, rtol=1e-9):
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


@functools.cache
def on_one_device():
    return run("jit", 1)


@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_eight_devices_equal_one(kind):
    assert jax.device_count() == 8, "tests/conftest.py simulates 8 devices"
    assert_same(run(kind, 8), on_one_device())


def test_remat_changes_no_number():
    assert_same(run("jit", 1, remat=True), on_one_device())


def test_accumulation_is_the_same_on_eight_devices():
    assert_same(run("jit", 8, accumulate_steps=2), run("jit", 1, accumulate_steps=2))


def test_accumulated_gradient_is_that_of_the_whole_batch():
    """By one step's parameters, with statistics that do not depend on the batch: see `Frozen`."""
    batch = next(batches())
    with jax.enable_x64(True):
        model = Frozen(build(dropout=0.0))
        schedule = poly_schedule(0.05, STEPS)
        results = []
        for parts in (1, 4):
            step = make_train_step(model, sgd(schedule), schedule, WEIGHTS, accumulate_steps=parts)
            state = TrainState.create(initial(), sgd(schedule))
            results.append(jax.device_get(jax.jit(step)(state, batch)))
    (whole, whole_metrics), (parts, parts_metrics) = results
    for name in ("loss", "grad_norm", "accuracy"):
        np.testing.assert_allclose(parts_metrics[name], whole_metrics[name], rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), parts.params, whole.params)


class Frozen:
    """A model whose batch norm uses the running statistics in training too."""

    def __init__(self, model):
        self.model, self.dtype, self.align_corners = model, model.dtype, model.align_corners

    def apply(self, variables, images, train, mutable, rngs):
        outputs = self.model.apply(variables, images, train=False)
        return outputs, {"batch_stats": variables["batch_stats"]}


def test_one_step_by_hand():
    """Gradient of the loss as written, and torch's update rule for a first step: p − lr·m·(g + d·p)."""
    batch = next(batches())
    with jax.enable_x64(True):
        model = build(dropout=0.0)
        variables = initial()

        def loss(params):
            outputs, _ = model.apply(
                {**variables, "params": params},
                normalize(batch["image"], batch["extent"], jnp.float64),
                train=True,
                mutable=["batch_stats"],
            )
            return multi_loss(outputs, batch["label"], WEIGHTS, count_valid(batch["label"]))[0]

        value, grads = jax.jit(jax.value_and_grad(loss))(variables["params"])
        schedule = poly_schedule(0.05, STEPS)
        step = make_train_step(model, sgd(schedule), schedule, WEIGHTS)
        state, metrics = jax.jit(step)(TrainState.create(variables, sgd(schedule)), batch)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-12)
        np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-10)
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


def test_no_valid_pixel_moves_parameters_only_by_decay():
    batch = next(batches())
    batch["label"] = np.full_like(batch["label"], 255)
    with jax.enable_x64(True):
        schedule = poly_schedule(0.05, STEPS)
        optimizer = sgd(schedule, weight_decay=0.0)
        step = jax.jit(make_train_step(build(), optimizer, schedule, WEIGHTS))
        state, metrics = step(TrainState.create(initial(), optimizer), batch)
        state, metrics = jax.device_get((state, metrics))
    assert metrics["loss"] == 0 and metrics["accuracy"] == 0 and metrics["grad_norm"] == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, initial()["params"])


def test_bfloat16_keeps_the_state_in_float32():
    model = build(dtype="bfloat16", param_dtype="float32")
    schedule = poly_schedule(0.05, STEPS)
    optimizer = sgd(schedule)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float32), initial())
    state = TrainState.create(variables, optimizer)
    step = jax.jit(make_train_step(model, optimizer, schedule, WEIGHTS))
    state, metrics = step(state, next(batches()))
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.opt_state[1]))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert metrics["loss"].dtype == jnp.float32
    history, _ = on_one_device()
    np.testing.assert_allclose(metrics["loss"], history[0]["loss"], rtol=0.05)


def test_padding_becomes_exactly_zero():
    images = np.full((1, 4, 4, 3), 124, np.uint8)
    normalised = np.asarray(normalize(images, np.array([[3, 2]])))
    assert (normalised[0, :3, :2] != 0).all()
    assert (normalised[0, 3:] == 0).all() and (normalised[0, :, 2:] == 0).all()


def test_parts_take_rows_from_all_over_the_batch():
    parts = split_parts(jnp.arange(12), 3)
    np.testing.assert_array_equal(parts, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
