"""Frozen batch norms and backbones: against PyTorch, over devices, and in a run."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

import dpanet_jax
from dpanet_jax import models
from dpanet_jax.config import ConfigError, check_config
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.models import registry
from dpanet_jax.models.heads.fcn import FCNHead
from dpanet_jax.models.segmenter import Segmenter, init_variables
from dpanet_jax.training import freezing, layout, loop
from dpanet_jax.training.optimizer import make_optimizer, poly_schedule
from dpanet_jax.training.options import Freeze, Optimizer, Sharding, Training
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.step import make_train_step
from dpanet_jax.training.traced import equations

pytestmark = pytest.mark.usefixtures("tiny_backbone")

STEPS = 2
SCHEDULE = poly_schedule(0.05, STEPS)
WEIGHTS = {"fused": 1.0, "auxiliary": 0.4}
FROZEN: tuple[Freeze, ...] = ("batch_norms", "backbone")
TINY = {"name": "fcn", "backbone": "two_convolutions"}
RESNET = {"name": "fcn", "backbone": "resnet18", "width": 4, "output_stride": 32, "auxiliary": False}


def make_model(freeze: Freeze, axis_name: str | None = None, **options: Any) -> Segmenter:
    """For 3 classes, in float64, without dropout."""
    types = {"dtype": "float64", "param_dtype": "float64"}
    trains = freeze == "nothing"
    return models.build(3, axis_name=axis_name, backbone_trains=trains, dropout=0.0, **types, **options)


def batches(size: int) -> Iterator[layout.Batch]:
    """Batches with ignored pixels, the last one without any other."""
    for step in range(STEPS):
        rng = np.random.default_rng(step)
        label = rng.integers(0, 3, (size, 32, 32)).astype(np.uint8)
        for i in range(size):
            label[i, : 2 * i] = 255
        if step == STEPS - 1:
            label[:] = 255
        yield {
            "image": rng.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8),
            "label": label,
            "extent": np.tile(np.array([[32, 24]], np.int32), (size, 1)),
        }


@functools.cache
def initial() -> dict[str, Any]:
    """Variables whose statistics are not those that a network starts with."""
    with jax.enable_x64(True):
        variables = jax.device_get(init_variables(make_model("nothing", **TINY), jax.random.key(0), (32, 32)))
    statistics = jax.tree.map(lambda x: x + np.linspace(0.2, 0.6, len(x)), variables["batch_stats"])
    return {**variables, "batch_stats": statistics}


def step_of(
    model: Segmenter,
    freeze: Freeze,
    variables: dict[str, Any],
    options: Optimizer,
    laid: layout.Layout | None = None,
    **given: Any,
) -> tuple[Callable[..., Any], TrainState]:
    """A training step that is not compiled, and its first state."""
    optimizer = make_optimizer(SCHEDULE, options)
    state = TrainState.create(variables, optimizer, Training(freeze=freeze))
    if laid:
        given |= {"axis_name": laid.axis_name, "gather": laid.gather, "scatter": laid.scatter}
    return make_train_step(model, optimizer, SCHEDULE, WEIGHTS, freeze=freeze, **given), state


# ---- Against PyTorch


@pytest.mark.parametrize("freeze", FROZEN)
def test_pytorch_freezes_the_same(freeze: Freeze) -> None:
    """Batch norms in eval mode, `requires_grad` off, PyTorch's own SGD: parameters and statistics."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from dpanet_jax.compare import torch_side
    from dpanet_jax.compare.measured import Recipe
    from dpanet_jax.interop import twin as twin_lib

    options = Optimizer(lr=0.05, weight_decay=0.01)
    recipe = Recipe(3, {**RESNET, "dropout": 0.0}, WEIGHTS, (), options, batch_size=4, total_steps=STEPS)
    state_dict = torch_side.random_weights(recipe, next(batches(4)), seed=0)

    twin = torch_side.make_twin(recipe, state_dict, "float64").train()
    for module in twin.pretrained.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
        if isinstance(module, torch.nn.BatchNorm2d) or freeze == "backbone":
            module.requires_grad_(False)
    by_torch = twin_lib.sgd(twin, 0.05, options.momentum, options.weight_decay, options.head_lr_multiplier)
    for number, batch in enumerate(batches(4)):
        twin_lib.set_lr(by_torch, twin_lib.poly_lr(0.05, number, STEPS, 0.9))
        by_torch.zero_grad(set_to_none=False)
        if (batch["label"] != 255).any():
            labels = torch.from_numpy(batch["label"].astype(np.int64))
            twin.loss(twin(torch_side._images(batch, "float64")), labels, WEIGHTS)[0].backward()
        else:  # The loss of no pixel is NaN there; the statistics move.
            twin(torch_side._images(batch, "float64"))
        by_torch.step()
    expected = {name: x.numpy() for name, x in twin.state_dict().items() if "num_batches" not in name}

    with jax.enable_x64(True):
        model = make_model(freeze, **RESNET)
        like = jax.device_get(init_variables(model, jax.random.key(0), (32, 32)))
        first = jax.tree.map(lambda x: np.asarray(x, np.float64), torch_weights.fit(state_dict, like))
        step, state = step_of(model, freeze, first, options)
        compiled = jax.jit(step)
        for batch in batches(4):
            state, _ = compiled(state, batch)
        ours = torch_weights.to_state_dict(jax.device_get(state.variables))
    assert ours.keys() == expected.keys()
    for name, theirs in expected.items():
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-8, atol=1e-10, err_msg=name)


# ---- Over devices


def run(freeze: Freeze, laid: layout.Layout, options: Optimizer) -> tuple[list[Any], TrainState]:
    step, first = step_of(
        make_model(freeze, laid.axis_name, **TINY), freeze, initial(), options, laid, accumulate_steps=2
    )
    compiled = laid.compile(step, first)
    state, history = laid.put_state(first), []
    for batch in batches(16):
        state, metrics = compiled(state, laid.put_batch(batch))
        history.append(jax.device_get(metrics))
    return history, laid.take_state(state).to_host()


def test_a_frozen_backbone_keeps_every_bit_and_devices_change_nothing() -> None:
    """By LARS, the state in parts against one device, the batch in two; `test_average` has batch norms."""
    with jax.enable_x64(True):
        ours, theirs = (
            run("backbone", laid, Optimizer(name="lars", lr=0.05))
            for laid in (layout.Jit(sharding=Sharding(state="parameters")), layout.Jit(jax.devices()[:1]))
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), ours, theirs)
    for _, state in (ours, theirs):
        before = flatten_dict({"params": initial()["params"], "batch_stats": initial()["batch_stats"]})
        for path, after in flatten_dict(state.variables).items():
            assert (after == before[path]).all() == (path[1] == "backbone"), path


def test_the_optimizer_keeps_nothing_of_what_is_frozen() -> None:
    params, batch_stats = initial()["params"], initial()["batch_stats"]
    of_norms = {f"norm{i}": {"scale", "bias"} for i in (1, 2)}
    trained, frozen = freezing.split(params, batch_stats, "batch_norms")
    assert {name: set(of) for name, of in frozen["backbone"].items()} == of_norms
    assert frozen.keys() == {"backbone"} and trained["backbone"].keys() == {"conv1", "conv2"}
    assert jax.tree.structure(freezing.join(trained, frozen)) == jax.tree.structure(params)
    trained, frozen = freezing.split(params, batch_stats, "backbone")
    assert trained.keys() == {"head", "auxiliary_head"} and frozen["backbone"] == params["backbone"]
    trained, frozen = freezing.split(params, batch_stats, "nothing")
    assert trained is params and frozen == {}
    optimizer = make_optimizer(SCHEDULE, Optimizer())
    state = TrainState.create(initial(), optimizer, Training(freeze="backbone"))
    assert {leaf.shape for leaf in jax.tree.leaves(state.opt_state)} == {
        leaf.shape for leaf in jax.tree.leaves((params["head"], params["auxiliary_head"], np.int32(0)))
    }


def test_there_is_no_backward_pass_through_a_frozen_backbone() -> None:
    """By the convolutions of the traced step: those of the forward pass, and the head's kernel's gradient.

    With remat, which would compute them once more.
    """

    def convolutions(function: Callable[..., Any], *arguments: Any) -> int:
        traced = jax.make_jaxpr(function)(*arguments).jaxpr
        return sum(
            turns for each, turns in equations(traced) if each.primitive.name == "conv_general_dilated"
        )

    def of_step(freeze: Freeze) -> int:
        model = make_model(freeze, **RESNET, remat=True)
        step, state = step_of(model, freeze, variables, Optimizer())
        return convolutions(step, state, next(batches(2)))

    with jax.enable_x64(True):
        model = make_model("nothing", **RESNET)
        variables = init_variables(model, jax.random.key(0), (32, 32))
        images = np.zeros((2, 32, 32, 3))
        forward = convolutions(lambda images: model.apply(variables, images, train=False), images)
        assert of_step("backbone") == forward + 1
        assert of_step("batch_norms") > 3 * forward


# ---- In a run


def test_a_run_with_a_frozen_backbone(
    make_config: Callable[[], ConfigDict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts from weights, trains the heads alone, and goes on from its checkpoint."""
    config = make_config()
    config.training.steps = 2
    config.pictures = 0
    config.training.freeze = "backbone"
    words = "freeze='backbone': the backbone's weights are random.*config.model.pretrained"
    with pytest.raises(ConfigError, match=words):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()

    config.model.pretrained = str(tmp_path / "weights.safetensors")
    Path(config.model.pretrained).touch()
    loaded = {}

    def load(path: str, variables: dict[str, Any], missing: Any) -> dict[str, Any]:
        loaded.update(jax.tree.map(lambda x: x + np.float32(0.125), variables))
        return loaded

    monkeypatch.setattr(torch_weights, "load", load)
    first = loop.train(config, tmp_path / "run")
    assert loop.train(config, tmp_path / "run")["mean_iou"] == first["mean_iou"]
    variables = dpanet_jax.load(tmp_path / "run", "latest").variables
    for kind in ("params", "batch_stats"):
        for part, before in loaded[kind].items():
            same = jax.tree.map(lambda a, b: bool((a == b).all()), before, variables[kind][part])
            assert set(jax.tree.leaves(same)) == {part == "backbone"}
    config.training.freeze = "nothing"
    with pytest.raises(ConfigError, match="training.freeze: 'backbone', now 'nothing'"):
        loop.train(config, tmp_path / "run")


def test_a_network_without_a_backbone_is_refused(
    make_config: Callable[[], ConfigDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.NETWORKS, "whole_one", FCNHead)
    config = make_config()
    config.model.name = "whole_one"
    config.model.backbone = "resnet50"
    check_config(config)
    config.training.freeze = "batch_norms"
    with pytest.raises(ConfigError, match="freeze='batch_norms': whole_one is a whole network without"):
        check_config(config)


def test_rates_by_layer_of_what_is_frozen_are_refused(make_config: Callable[[], ConfigDict]) -> None:
    config = make_config()
    config.training.freeze = "backbone"
    config.optimizer.layer_decay = 0.9
    with pytest.raises(ConfigError, match="config.optimizer.layer_decay=0.9: with config.training.freeze="):
        check_config(config)
    config.training.freeze = "batch_norms"
    check_config(config)
