"""`export-torch`: a run's weights on the disk, in the twin and back, and what it says where it cannot."""

import jax
import numpy as np
import pytest

import dpanet_jax
from dpanet_jax import checkpoint, models
from dpanet_jax import config as config_lib
from dpanet_jax.__main__ import main
from dpanet_jax.data.classes import Classes
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.interop.files import read_state_dict
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.training.state import TrainState

RUNS = {
    "dpanet": {"backbone": "resnet18", "width": 8, "qkv": "conv", "reduce_channels": 8},
    "resnest": {"backbone": "resnest50", "width": 4, "name": "fcn"},
}


@pytest.fixture(scope="module", params=RUNS)
def workdir(request, tmp_path_factory):
    """A run with two checkpoints of random numbers, the first of them the best; nothing was trained."""
    workdir = tmp_path_factory.mktemp(request.param)
    config = config_lib.default_config()
    config.model.update({"output_stride": 16, **RUNS[request.param]})
    config.data.crop_size = (64, 64)
    classes = Classes(("road", "sky", "car"), np.zeros((3, 3)), np.full(256, 255), np.zeros(256, bool))
    model = models.build(3, **config_lib.sections(config).model)
    shapes = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))
    about = {"config": config_lib.to_dict(config), "classes": classes.to_dict(), "data": {}}
    manager = checkpoint.Checkpoints(workdir)
    for step, score in ((1, 0.9), (2, 0.1)):
        rng = np.random.default_rng(step)
        variables = jax.tree.map(lambda leaf, rng=rng: np.asarray(rng.random(leaf.shape), np.float32), shapes)
        state = TrainState(np.int32(step), variables["params"], variables["batch_stats"], {"m": np.zeros(2)})
        manager.save(state, about)
        manager.add_score(step, score, {})
    manager.close()
    return workdir


def zeros(variables):
    return jax.tree.map(np.zeros_like, variables)


@pytest.mark.parametrize("which", ["best", "latest"])
def test_what_is_exported_comes_back(workdir, tmp_path, capsys, which):
    path = tmp_path / "weights.safetensors"
    command = ["export-torch", f"--workdir={workdir}", f"--output={path}", f"--checkpoint={which}"]
    assert main(command) == 0
    variables = dpanet_jax.load(workdir, which).variables
    state_dict = read_state_dict(path)
    step = {"best": 1, "latest": 2}[which]
    words = f"{len(state_dict)} arrays of {workdir / 'checkpoints' / str(step)} are in {path}"
    out = capsys.readouterr().out
    assert words in out and f"--config.model.pretrained={path}" in out
    assert len(state_dict) == len(jax.tree.leaves(variables))
    assert {value.dtype for value in state_dict.values()} == {np.dtype(np.float32)}
    loaded = torch_weights.load(path, zeros(variables))
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_the_twin_takes_it(workdir, tmp_path):
    """With strict=True, and what the twin then gives back is the model."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from dpanet_jax.interop import twin

    path = tmp_path / "weights.safetensors"
    assert main(["export-torch", f"--workdir={workdir}", f"--output={path}"]) == 0
    model = dpanet_jax.load(workdir)
    network = twin.build(3, **config_lib.sections(model.config).model)
    network.load_state_dict(load_file(path), strict=True)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "twin.pth")
    loaded = torch_weights.load(tmp_path / "twin.pth", zeros(model.variables))
    jax.tree.map(np.testing.assert_array_equal, loaded, model.variables)


def test_what_cannot_be_exported(tmp_path, capsys):
    def message_of(code, **flags):
        assert main(["export-torch", *(f"--{name}={value}" for name, value in flags.items())]) == code
        return capsys.readouterr().err

    words = "weights are written to a file that ends in .safetensors"
    path = tmp_path / "weights.pth"
    assert message_of(1, workdir=tmp_path, output=path) == f"dpanet_jax: {path}: {words}\n"
    path = tmp_path / "no" / "weights.safetensors"
    assert f"{path}: there is no folder {tmp_path / 'no'}\n" in message_of(1, workdir="x", output=path)
    assert "--output is missing" in message_of(2, workdir=tmp_path)
    path = tmp_path / "weights.safetensors"
    assert "not a workdir" in message_of(1, workdir=tmp_path, output=path)
    assert not path.exists()
