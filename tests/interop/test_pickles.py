"""PyTorch's files as training programs save them: the weights are found, and nothing of the file is run."""

import argparse
import collections
import dataclasses
import datetime
import enum
import pathlib
import sys
import types
import zipfile

import numpy as np
import pytest

from dpanet_jax.interop.errors import WeightsError
from dpanet_jax.interop.files import read, read_state_dict

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


def weights(seed=0):
    torch.manual_seed(seed)
    return {"conv1.weight": torch.randn(4, 3, 3, 3), "bn1.running_mean": torch.randn(4)}


def assert_weights(state_dict, expected):
    assert state_dict.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state_dict[name], value.numpy(), err_msg=name)


def message_of(path):
    with pytest.raises(WeightsError) as error:
        read_state_dict(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@dataclasses.dataclass
class Config:
    """A user's own class, which no other program has."""

    lr: float = 0.1
    name: str = "mine"


class Mode(enum.Enum):
    TRAIN = 1


Point = collections.namedtuple("Point", ["x", "y"])


class AttrDict(dict):
    """As many configurations are."""


def optimizer_state():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


BESIDE = {
    "epoch": 3,
    "best_acc": np.float64(0.5),
    "score": np.float32(0.5),
    "steps": np.int64(7),
    "history": np.arange(5),
    "names": np.array(["a", "b"]),
    "metric": torch.tensor(0.7),
    "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), path=pathlib.Path("x")),
    "config": Config(),
    "mode": {Mode.TRAIN: Mode.TRAIN},
    "recent": collections.deque([1, 2], maxlen=3),
    "point": Point(1, 2),
    "cfg": AttrDict(model=AttrDict(depth=50)),
    "log": collections.defaultdict(list, loss=[1.0, 2.0]),
    "counts": collections.Counter("abca"),
    "date": datetime.datetime(2024, 1, 2),
    "space": types.SimpleNamespace(a=1),
    "seen": {1, 2, frozenset({3})},
    "range": range(3),
    "rng": torch.get_rng_state(),
    "numpy_rng": np.random.RandomState(0).get_state(),
    "none": None,
}


@pytest.mark.parametrize(
    "key",
    ["model", "state_dict", "model_state_dict", "net", "network", "weights", "params", "model_ema", "ema"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_the_weights_of_a_training_checkpoint(tmp_path, key, legacy):
    """Beside an optimizer and everything else that programs save; also in PyTorch's format before 1.6."""
    content = {**BESIDE, "optimizer": optimizer_state(), "lr_scheduler": {"last_epoch": 3}, key: weights()}
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert_weights(read_state_dict(path), weights())


def test_a_checkpoint_of_lightning(tmp_path):
    content = {
        "epoch": 9,
        "global_step": 1000,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": weights(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 10}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.7)}},
        "optimizer_states": [optimizer_state()],
        "lr_schedulers": [{"last_epoch": 9}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "config": Config()},
    }
    torch.save(content, tmp_path / "last.ckpt")
    assert_weights(read_state_dict(tmp_path / "last.ckpt"), weights())


def test_a_checkpoint_of_mmengine(tmp_path, monkeypatch):
    """Its message hub holds objects of a class that is not installed here, with NumPy arrays in them."""
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    class HistoryBuffer:
        def __init__(self):
            self._log_history, self._count_history = np.arange(5.0), np.arange(5)

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    sys.modules["mmengine.logging.history_buffer"].HistoryBuffer = HistoryBuffer
    content = {
        "meta": {"epoch": 1, "dataset_meta": {"classes": ("a", "b"), "palette": [[0, 0, 0]]}},
        "state_dict": collections.OrderedDict(weights()),
        "message_hub": {"log_scalars": collections.OrderedDict(loss=HistoryBuffer())},
        "optimizer": optimizer_state(),
        "param_schedulers": [{"last_step": 3}],
    }
    torch.save(content, tmp_path / "iter_80000.pth")
    monkeypatch.undo()
    assert_weights(read_state_dict(tmp_path / "iter_80000.pth"), weights())


@pytest.mark.parametrize("key, average", [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_which_of_two_is_taken_is_said(tmp_path, key, average):
    """timm's training script and torchvision's save the running average beside the weights."""
    path = tmp_path / "checkpoint.pth"
    torch.save({average: weights(1), key: weights(0)}, path)
    state_dict, (said,) = read(path)
    assert_weights(state_dict, weights(0))
    assert said == (
        f"its weights are those under {key!r}; {average!r} is there too and is not taken: to start from it, "
        "save it alone"
    )
    torch.save({average: weights(1), "epoch": 3}, path)
    state_dict, (said,) = read(path)
    assert_weights(state_dict, weights(1))
    assert said == f"its weights are those under {average!r}, a running average"


def test_keys_inside_keys_and_parts(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"state": 1, "model": {"state_dict": weights(), "epoch": 3}}, path)
    assert_weights(read_state_dict(path), weights())
    torch.save({"backbone": weights(0), "head": weights(1), "optim": optimizer_state(), "epoch": 1}, path)
    expected = {
        f"{part}.{name}": v for i, part in enumerate(("backbone", "head")) for name, v in weights(i).items()
    }
    assert_weights(read_state_dict(path), expected)
    torch.save((weights(), optimizer_state(), 3), path)
    assert_weights(read_state_dict(path), weights())
    torch.save({**weights(), "epoch": 3, "arch": "resnet18", "bn1._extra_state": {"a": 1}}, path)
    assert_weights(read_state_dict(path), weights())


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.activation, self.config = torch.nn.functional.relu, Config()


@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: {"model": n, "epoch": 1}, nn.DataParallel])
def test_a_whole_network_that_was_saved_as_an_object(tmp_path, wrap):
    """Its arrays are taken from it, and its classes are not asked for."""
    network = Network()
    path = tmp_path / "model.pt"
    torch.save(wrap(network), path)
    prefix = "module." if wrap is nn.DataParallel else ""
    assert_weights(read_state_dict(path), {prefix + k: v for k, v in network.state_dict().items()})


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch deprecates the quantized ones
def test_arrays_of_other_kinds(tmp_path):
    """NumPy's, quantized, sparse, of half and of a quarter of the precision."""
    path = tmp_path / "weights.pth"
    values = torch.tensor([[0.0, 1.0], [-2.0, 0.0]])
    content = {
        "numpy": values.numpy(),
        "half": values.numpy().astype(np.float16),
        "quantized": torch.quantize_per_tensor(values, 0.5, 0, torch.qint8),
        "sparse": values.to_sparse(),
        "bfloat16": values.bfloat16(),
        "float8": values.to(torch.float8_e4m3fn),
        "parameter": nn.Parameter(values),
        "view": values.repeat(2, 2)[:2, :2],
    }
    torch.save(content, path)
    state_dict = read_state_dict(path)
    assert state_dict.keys() == content.keys()
    for name, value in state_dict.items():
        np.testing.assert_array_equal(value, values.numpy(), err_msg=name)
        assert value.dtype == np.float32
    torch.save({"a": torch.empty(2, device="meta")}, path)
    assert "a has a shape and no values (device 'meta')" in message_of(path)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["args", "model"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["os.system", "subprocess.run", "builtins.eval", "builtins.exec", "shutil"])
def test_programs_are_refused_and_not_run(tmp_path, where, legacy, name):
    import os
    import shutil
    import subprocess

    marker = tmp_path / "ran"
    call = {
        "os.system": Call(os.system, f"touch {marker}"),
        "subprocess.run": Call(subprocess.run, ["touch", str(marker)]),
        "builtins.eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "builtins.exec": Call(exec, f"open({str(marker)!r}, 'w')"),
        "shutil": Call(shutil.copy, __file__, str(marker)),
    }[name]
    path = tmp_path / "weights.pth"
    content = {"model": weights(), "args": call} if where == "args" else {"model": call}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    message = message_of(path)
    assert message.startswith(f"{path}: not a file of weights that is safe to read (it names ")
    assert not marker.exists()


def test_a_class_s_own_code_is_not_run(tmp_path):
    """What a class does when it is made or filled belongs to the class, which is stood in for."""
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"model": weights(), "thing": Call(Touching, marker)}, path)
    assert_weights(read_state_dict(path), weights())
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


class Touching:
    def __init__(self, marker):
        marker.touch()


def test_damaged_files(tmp_path):
    """Cut at any place, or with other bytes in it: the weights, or one line."""
    path = tmp_path / "weights.pth"
    outcomes = set()
    for legacy in (False, True):
        torch.save({"model": weights(), **BESIDE}, path, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for i in range(60):
            cut = int(rng.integers(len(whole)))
            noise = rng.integers(0, 256, 16).astype(np.uint8).tobytes()
            path.write_bytes(whole[:cut] if i % 2 else whole[:cut] + noise + whole[cut + 16 :])
            try:
                read_state_dict(path)
                outcomes.add("read")
            except WeightsError as error:
                assert "\n" not in str(error) and str(path) in str(error)
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_later_pickle_protocol(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": weights()}, path, pickle_protocol=4)
    assert "was saved with pickle_protocol=4, which is not read; save it anew" in message_of(path)


def test_torchscript_and_unknown_zips(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:  # torch.jit.save's layout
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/data.pkl", b"")
        archive.writestr("model/code/__torch__.py", b"")
    assert "is a TorchScript program" in message_of(path) and "torch.jit.load" in message_of(path)


def test_parts_of_several_devices(tmp_path, monkeypatch):
    """FSDP's sharded state dicts hold no tensors."""
    module = types.ModuleType("torch.distributed.tensor_of_a_test")

    class DTensor:
        def __init__(self):
            self.spec = "Shard(dim=0)"

    DTensor.__module__, DTensor.__qualname__ = module.__name__, "DTensor"
    module.DTensor = DTensor
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "weights.pth"
    torch.save({"model": {"conv1.weight": DTensor()}}, path)
    assert "but DTensors, parts of several devices: save the whole weights (FSDP" in message_of(path)


def test_what_holds_no_weights_names_its_keys(tmp_path):
    path = tmp_path / "optimizer.pth"
    torch.save({"optimizer": optimizer_state(), "epoch": 3}, path)
    assert "holds no state dict" in message_of(path) and "its keys are optimizer, epoch" in message_of(path)
