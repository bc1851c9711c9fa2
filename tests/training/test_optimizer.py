"""SGD, LARS and the poly schedule against arithmetic written out in NumPy; SGD against torch.optim too."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpanet_jax.config import ConfigError
from dpanet_jax.options import OptionError
from dpanet_jax.training.optimizer import (
    make_optimizer,
    poly_schedule,
    scaled_lr,
    schedule_for,
    sgd,
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


def run_optax() -> dict[str, Any]:
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, start())
        optimizer = sgd(schedule_for(OPTIONS, 8, STEPS), OPTIONS)
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


def test_sgd_refuses_an_option_of_lars() -> None:
    with pytest.raises(OptionError, match="trust_coefficient=0.02: sgd has none"):
        Optimizer(trust_coefficient=TRUST)
