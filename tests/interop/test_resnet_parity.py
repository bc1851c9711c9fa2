"""The backbones against a network in plain PyTorch (conftest.py), its weights loaded from a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax import models
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.models.segmenter import init_variables

# At sizes that no stride divides.
IMAGES = np.random.default_rng(0).normal(size=(2, 45, 61, 3))
NETWORKS = [
    ("resnet18", {"stem": "deep", "output_stride": 8, "multi_grid": (4, 8)}),
    ("resnet50", {"output_stride": 8, "multi_grid": (4, 8, 16)}),
    ("resnet50", {"stem": "deep", "output_stride": 16}),
]


def build(**options):
    defaults = {"name": "fcn", "backbone": "resnet18", "width": 4, "auxiliary": False, "output_stride": 32}
    return models.build(3, **{**defaults, **options})


def zeros(model):
    shapes = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def loaded(model, network, folder):
    """The network's weights in the model, by way of a file; in float64, the statistics too."""
    import torch

    torch.save(network.state_dict(), folder / "weights.pth")
    variables = torch_weights.load(folder / "weights.pth", zeros(model))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)


def reference(network):
    """The four stages that PyTorch computes in float64, channels last."""
    import torch

    with torch.no_grad():
        stages = network.double()(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    return {name: stage.permute(0, 2, 3, 1).numpy() for name, stage in stages.items()}


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_every_stage_is_pytorchs(torch_resnet, tmp_path, name, options):
    """Names, layouts, padding, dilation and pooling at once: any slip moves some number by far more."""
    network = torch_resnet(name, **options)
    with jax.enable_x64(True):
        model = build(backbone=name, dtype="float64", **options)
        variables = loaded(model, network, tmp_path)
        run = jax.jit(lambda variables, x: model.apply(variables, x, False, with_stages=True))
        outputs = jax.device_get(run(variables, jnp.asarray(IMAGES)))
    for stage, expected in reference(network).items():
        scale = np.abs(expected).max()
        assert outputs[stage].dtype == np.float64 and scale > 0.1
        np.testing.assert_allclose(outputs[stage] / scale, expected / scale, rtol=0, atol=1e-9, err_msg=stage)


def test_training_is_pytorchs(torch_resnet, tmp_path):
    """Outputs with the batch's statistics, and every running one."""
    network = torch_resnet("resnet18")
    with jax.enable_x64(True):
        model = build(dtype="float64", dropout=0.0)
        variables = loaded(model, network, tmp_path)
        run = jax.jit(lambda v, x: model.apply(v, x, True, with_stages=True, mutable=["batch_stats"]))
        outputs, updates = jax.device_get(run(variables, jnp.asarray(IMAGES)))
    for stage, expected in reference(network.train()).items():
        np.testing.assert_allclose(outputs[stage], expected, rtol=0, atol=1e-9, err_msg=stage)
    new = torch_weights.to_state_dict({**variables, **updates}, backbone_only=True)
    running = {name: value.numpy() for name, value in network.state_dict().items() if "running" in name}
    for name, expected in running.items():
        np.testing.assert_allclose(new[name], expected, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_output_sizes_are_pytorchs(torch_resnet, output_stride):
    torch = pytest.importorskip("torch")
    network = torch_resnet("resnet18", width=2, output_stride=output_stride)
    model = build(width=2, output_stride=output_stride)
    variables = zeros(model)
    for size in ((33, 47), (64, 65), (31, 97)):
        with torch.no_grad():
            expected = {name: tuple(x.shape[2:]) for name, x in network(torch.zeros(1, 3, *size)).items()}
        x = jnp.zeros((1, *size, 3))
        outputs = jax.eval_shape(lambda v, x=x: model.apply(v, x, False, with_stages=True), variables)
        assert {name: outputs[name].shape[1:3] for name in expected} == expected


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_names_are_the_state_dicts(torch_resnet, tmp_path, name, options):
    """Both ways: every tensor of the network has its place, and comes back as it was."""
    torch = pytest.importorskip("torch")
    expected = torch_resnet(name, **options).state_dict()
    torch.save(expected, tmp_path / "weights.pt")
    model = build(backbone=name, **options)
    variables = torch_weights.load(tmp_path / "weights.pt", zeros(model))
    state_dict = torch_weights.to_state_dict(variables, backbone_only=True)
    assert set(state_dict) == {key for key in expected if not key.endswith("num_batches_tracked")}
    for key, value in state_dict.items():
        np.testing.assert_array_equal(value, expected[key].numpy(), err_msg=key)
