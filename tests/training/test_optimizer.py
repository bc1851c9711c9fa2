"""Optimizers and schedules against arithmetic written out in NumPy; three of them against torch too."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpanet_jax import models
from dpanet_jax.config import ConfigError
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.options import OptionError
from dpanet_jax.training.optimizer import (
    cosine_schedule,
    make_optimizer,
    poly_schedule,
    scale_by_layer,
    scaled_lr,
    schedule_for,
    total_steps,
)
from dpanet_jax.training.options import Optimizer, Training

STEPS, LR, POWER, MOMENTUM, DECAY = 12, 0.1, 0.9, 0.9, 0.01
OPTIONS = Optimizer(lr=LR, power=POWER, momentum=MOMENTUM, weight_decay=DECAY, head_lr_multiplier=10.0)


def gradients(step: int, name: str) -> np.ndarray:
    return np.random.default_rng([step, len(name)]).normal(size=(3, 2))


def start() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    return {"backbone": {"w": rng.normal(size=(3, 2))}, "head": {"w": rng.normal(size=(3, 2))}}


def run_optax(options: Optimizer = OPTIONS) -> dict[str, Any]:
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, start())
        optimizer = make_optimizer(schedule_for(options, 8, STEPS), options)
        state = optimizer.init(params)
        for step in range(STEPS):
            grads = {name: {"w": jnp.asarray(gradients(step, name))} for name in params}
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return jax.tree.map(np.asarray, params)


def test_arithmetic_written_out() -> None:
    params = {name: value["w"] for name, value in start().items()}
    momentum = {name: 0.0 for name in params}
    for step in range(STEPS):
        lr = LR * (1 - step / STEPS) ** POWER
        for name, multiplier in (("backbone", 1), ("head", 10)):
            gradient = gradients(step, name) + DECAY * params[name]
            momentum[name] = MOMENTUM * momentum[name] + gradient
            params[name] = params[name] - multiplier * lr * momentum[name]
    ours = run_optax()
    for name, value in params.items():
        np.testing.assert_allclose(ours[name]["w"], value, rtol=1e-12)


def test_same_as_torch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    params = {name: torch.tensor(value["w"], requires_grad=True) for name, value in start().items()}
    optimizer = torch.optim.SGD(
        [{"params": [params["backbone"]]}, {"params": [params["head"]], "lr": 10 * LR}],
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=DECAY,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: (1 - s / STEPS) ** POWER)
    for step in range(STEPS):
        for name, value in params.items():
            value.grad = torch.tensor(gradients(step, name))
        optimizer.step()
        schedule.step()
    ours = run_optax()
    for name, value in params.items():
        np.testing.assert_allclose(ours[name]["w"], value.detach().numpy(), rtol=1e-12)


ADAMW = Optimizer(name="adamw", lr=LR, beta1=0.8, beta2=0.99, eps=1e-3, weight_decay=0.3, schedule="cosine")


def test_adamw_and_cosine_are_torchs() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    params = {name: torch.tensor(value["w"], requires_grad=True) for name, value in start().items()}
    optimizer = torch.optim.AdamW(
        [{"params": [params["backbone"]]}, {"params": [params["head"]], "lr": 10 * LR}],
        lr=LR,
        betas=(0.8, 0.99),
        eps=1e-3,
        weight_decay=0.3,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    for step in range(STEPS):
        for name, value in params.items():
            value.grad = torch.tensor(gradients(step, name))
        optimizer.step()
        schedule.step()
    ours = run_optax(ADAMW)
    for name, value in params.items():
        np.testing.assert_allclose(ours[name]["w"], value.detach().numpy(), rtol=1e-12)


def test_adamw_written_out() -> None:
    ours = run_optax(ADAMW)
    for name, multiplier in (("backbone", 1), ("head", 10)):
        p, m, v = start()[name]["w"], 0.0, 0.0
        for step in range(STEPS):
            lr = LR * (1 + np.cos(np.pi * step / STEPS)) / 2
            g = gradients(step, name)
            m, v = 0.8 * m + 0.2 * g, 0.99 * v + 0.01 * g**2
            move = (m / (1 - 0.8 ** (step + 1))) / (np.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-3)
            p = p - multiplier * lr * (move + 0.3 * p)
        np.testing.assert_allclose(ours[name]["w"], p, rtol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_every_optimizer_takes_both_schedules_and_decay_by_layer(name: str) -> None:
    """One step from the same gradients: a layer's rate is that without decay, times its own factor."""
    params = {"backbone": {key: {"w": np.ones((2, 2))} for key in FACTORS}, "head": {"w": np.ones((2, 2))}}
    grads = jax.tree.map(lambda p: p * 0.1, params)
    schedules = {schedule: Optimizer(name=name, lr=0.1, schedule=schedule) for schedule in ("poly", "cosine")}
    with jax.enable_x64(True):
        for options in schedules.values():
            moved = {}
            for decay in (1.0, 0.5):
                by_layer = dataclasses.replace(options, layer_decay=decay)
                optimizer = make_optimizer(lambda _: schedule_for(by_layer, 8, 10)(5), by_layer)  # noqa: B023
                moved[decay] = optimizer.update(grads, optimizer.init(params), params)[0]
            expected = {
                "backbone": {
                    key: {"w": 0.5**n * moved[1.0]["backbone"][key]["w"]} for key, n in FACTORS.items()
                },
                "head": moved[1.0]["head"],
            }
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), moved[0.5], expected)
            assert (moved[0.5]["head"]["w"] < 0).all()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_batch_without_a_valid_pixel_only_decays(name: str) -> None:
    """Its gradient is 0."""
    params = jax.tree.map(jnp.asarray, start())
    options = Optimizer(name=name, weight_decay=0.1, head_lr_multiplier=1.0)
    optimizer = make_optimizer(lambda _: jnp.asarray(0.5), options)
    moved, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    jax.tree.map(lambda m, p: np.testing.assert_allclose(m, -0.05 * p, rtol=1e-6), moved, params)


# The power of the decay that each module of a backbone has; the heads have none.
FACTORS = {"conv1": 5, "bn1_0": 5, "layer1_0": 4, "layer2_3": 3, "layer3": 2, "layer4_0": 1, "layer4_11": 1}


def test_a_backbone_has_its_layers() -> None:
    model = models.build(3, name="fcn", backbone="resnet18", stem="deep", width=8)
    params = jax.eval_shape(lambda rng: init_variables(model, rng, (32, 32)), jax.random.key(0))["params"]
    ones, by_layer = jax.tree.map(lambda p: np.ones(p.shape), params), scale_by_layer(0.5)
    moved, _ = by_layer.update(ones, by_layer.init(ones))
    rates = {name: set(np.unique(jax.tree.leaves(layer)[0])) for name, layer in moved["backbone"].items()}
    for module, found in rates.items():
        id_of_layer = int(module[5]) if module.startswith("layer") else 0
        assert found == {0.5 ** (5 - id_of_layer)}
    assert {"conv1_0", "bn1_2", "layer1_1", "layer4_0"} <= rates.keys()
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(moved["head"]))


@pytest.mark.parametrize("params", [{"network": {}}, {"backbone": {"conv1": {}, "layer1_0": {}}}])
def test_layers_that_are_not_there_have_no_decay(params: dict[str, Any]) -> None:
    optimizer = make_optimizer(lambda _: jnp.asarray(1.0), Optimizer(layer_decay=0.9))
    with pytest.raises(
        ConfigError, match="layer_decay=0.9: the network has no backbone with .* layer1 to lay"
    ):
        optimizer.init(params)


def test_cosine_falls_to_zero_and_warms_up() -> None:
    with jax.enable_x64(True):
        schedule, warm = (cosine_schedule(3.0, 10, warmup) for warmup in (0, 4))
        by_hand = [3 * (1 + np.cos(np.pi * step / 10)) / 2 for step in range(11)]
        np.testing.assert_allclose([schedule(step) for step in range(11)], by_hand, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(warm(1), by_hand[1] / 2, rtol=1e-12)
        assert [warm(step) for step in range(3, 11)] == [schedule(step) for step in range(3, 11)]


def test_schedule_ends_and_warms_up() -> None:
    schedule = poly_schedule(1.0, 10, 0.9)
    assert schedule(0) == 1.0
    assert schedule(10) == 0.0
    warm = poly_schedule(1.0, 10, 0.9, warmup_steps=4)
    np.testing.assert_allclose(warm(0), 0.25)
    np.testing.assert_allclose([warm(s) for s in range(3, 10)], [schedule(s) for s in range(3, 10)])


def test_lr_scales_with_the_batch_only_when_asked() -> None:
    assert scaled_lr(0.01, 32, 0) == 0.01
    assert scaled_lr(0.01, 32, 8) == 0.04
    assert schedule_for(Optimizer(lr=0.01), 32, 10)(0) == np.float32(0.01)
    assert schedule_for(Optimizer(lr=0.01, lr_batch_size=8), 32, 10)(0) == np.float32(0.04)


def test_total_steps() -> None:
    # The paper's own numbers: 2,975 images, batch 8, 300 epochs; and VOC's 10,582, batch 16, 180.
    assert total_steps(Training(batch_size=8, epochs=300), 2975) == 111_300
    assert total_steps(Training(batch_size=16, epochs=180), 10582) == 118_980
    assert total_steps(Training(batch_size=8, epochs=300, steps=7), 5) == 7
    with pytest.raises(ConfigError, match="batch_size=8 is more than the 5"):
        total_steps(Training(batch_size=8, epochs=1), 5)


TRUST = 0.02
LARS = dataclasses.replace(OPTIONS, name="lars", trust_coefficient=TRUST, warmup_steps=3, lr_batch_size=8)
BATCH = 32  # four times the batch that the rate is for


def layers() -> dict[str, dict[str, np.ndarray]]:
    """Kernels, one of them all zeros, and what has one axis or none, in the backbone and in the head."""
    rng = np.random.default_rng(3)
    backbone = {"kernel": rng.normal(size=(3, 3, 2, 4)), "scale": rng.normal(size=4)}
    head = {"kernel": np.zeros((4, 5)), "bias": rng.normal(size=5), "alpha": np.array(0.3)}
    return {"backbone": backbone, "head": head}


def layer_gradient(step: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.random.default_rng([step, *name.encode()]).normal(size=shape))


def test_lars_written_out() -> None:
    params = {(part, name): p for part, branch in layers().items() for name, p in branch.items()}
    momentum = {key: np.zeros_like(p) for key, p in params.items()}
    for step in range(STEPS):
        lr = LR * (BATCH / 8) * (1 - step / STEPS) ** POWER * min(1, (step + 1) / 3)
        for (part, name), p in params.items():
            g = layer_gradient(step, part + name, p.shape)
            if name == "kernel":
                g = g + DECAY * p
                size = np.sqrt(np.sum(p**2))
                g = g * (TRUST * size / np.sqrt(np.sum(g**2)) if size else 1)
            momentum[part, name] = MOMENTUM * momentum[part, name] + lr * g
            params[part, name] = p - (10 if part == "head" else 1) * momentum[part, name]

    with jax.enable_x64(True):
        ours: Any = jax.tree.map(jnp.asarray, layers())
        optimizer = make_optimizer(schedule_for(LARS, BATCH, STEPS), LARS)
        state = optimizer.init(ours)
        for step in range(STEPS):
            grads = {
                part: {name: jnp.asarray(layer_gradient(step, part + name, p.shape)) for name, p in b.items()}
                for part, b in ours.items()
            }
            updates, state = optimizer.update(grads, state, ours)
            ours = optax.apply_updates(ours, updates)
    for (part, name), expected in params.items():
        assert not np.allclose(expected, layers()[part][name])
        np.testing.assert_allclose(ours[part][name], expected, rtol=1e-12)


def test_the_scale_of_a_layer_does_not_change_how_far_lars_moves_it() -> None:
    """A kernel changes by lr · trust_coefficient of its norm, however large its gradient is."""
    options = Optimizer(name="lars", weight_decay=0, momentum=0, head_lr_multiplier=1, trust_coefficient=0.01)
    params = {"backbone": {"kernel": jnp.ones((8, 8))}}
    optimizer = make_optimizer(lambda _: jnp.asarray(2.0), options)
    for size in (1e-6, 1.0, 1e6):
        grads = jax.tree.map(lambda p, size=size: size * p, params)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        np.testing.assert_allclose(updates["backbone"]["kernel"], -0.02, rtol=1e-5)


def test_sgd_keeps_the_structure_of_its_checkpoints() -> None:
    params = jax.tree.map(jnp.asarray, start())
    schedule = schedule_for(OPTIONS, 8, STEPS)
    state = make_optimizer(schedule, OPTIONS).init(params)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    assert paths == ["[1].trace['backbone']['w']", "[1].trace['head']['w']", "[3].count"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trust_coefficient": 0.02}, "trust_coefficient=0.02: sgd has none; set optimizer.name to lars, or"),
        (
            {"name": "adamw", "momentum": 0.8},
            "momentum=0.8: adamw has none; set .*name to sgd or lars, or le",
        ),
        (
            {"name": "lars", "beta1": 0.8},
            "beta1=0.8: lars has none; set optimizer.name to adamw, or leave it ",
        ),
        ({"beta2": 0.8}, "beta2=0.8: sgd has none"),
        ({"eps": 1e-6}, "eps=1e-06: sgd has none; .* leave it at its default, 1e-08"),
        (
            {"schedule": "cosine", "power": 1.0},
            "power=1.0: cosine has none; set optimizer.schedule to poly, o",
        ),
    ],
)
def test_what_the_optimizer_has_not_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Optimizer(**options)
