"""Weights in and out: exact round trips, each file format, and an error for everything that does not fit."""

import json
import pickle
import struct
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dpanet_jax import models
from dpanet_jax.interop.torch import WeightsError, load, name_table, read_state_dict, to_state_dict
from dpanet_jax.models.segmenter import init_variables

PARTIAL = Path(__file__).parents[2].parent / "shared" / "weights" / "resnet18_imagenet_partial.safetensors"
# Half precision has these numbers too.
EXACT = np.arange(-8, 9) / 4


def random_variables(seed=0, **options):
    """Variables of a small network, of random values that half precision holds exactly."""
    options = {"name": "fcn", "backbone": "resnet18", "width": 4, "output_stride": 32, **options}
    model = models.build(2, **options)
    shapes = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.choice(EXACT, leaf.shape).astype(leaf.dtype), shapes)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.dtype == b.dtype, one, other)))


@pytest.fixture(scope="module")
def variables():
    return random_variables(0)


@pytest.fixture(scope="module")
def others():
    """The same network with other values: those of `variables` are to be loaded into it."""
    return random_variables(1)


@pytest.fixture(scope="module")
def state_dict(variables):
    return to_state_dict(variables)


@pytest.fixture
def write(tmp_path):
    def write(state_dict, name="weights.safetensors"):
        save_file({k: np.ascontiguousarray(v) for k, v in state_dict.items()}, tmp_path / name)
        return tmp_path / name

    return write


def message_of(path, variables, missing=()):
    with pytest.raises(WeightsError) as error:
        load(path, variables, missing)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name, stem", [("resnet18", "plain"), ("resnet50", "plain"), ("resnet50", "deep")])
def test_round_trip_is_exact(write, name, stem):
    variables, others = (random_variables(seed, backbone=name, stem=stem, name="dpanet") for seed in (0, 1))
    loaded = load(write(to_state_dict(variables)), others)
    for collection in ("params", "batch_stats"):
        assert_same(loaded[collection]["backbone"], variables[collection]["backbone"])
        # The heads are left as they were.
        for head in ("head", "auxiliary_head"):
            assert_same(loaded[collection][head], others[collection][head])
    assert jax.tree.structure(loaded) == jax.tree.structure(others)


def test_names_and_layouts_are_torchvision_s(variables, state_dict):
    backbone = variables["params"]["backbone"]
    assert state_dict["conv1.weight"].shape == (4, 3, 7, 7)
    kernel = np.asarray(backbone["layer2_0"]["conv1"]["kernel"])
    np.testing.assert_array_equal(state_dict["layer2.0.conv1.weight"][5, 2], kernel[:, :, 2, 5])
    projection = np.asarray(backbone["layer2_0"]["downsample_conv"]["kernel"])
    np.testing.assert_array_equal(state_dict["layer2.0.downsample.0.weight"][5, 2, 0, 0], projection[2, 5])
    statistics = variables["batch_stats"]["backbone"]["bn1"]
    np.testing.assert_array_equal(state_dict["bn1.running_mean"], statistics["mean"])
    np.testing.assert_array_equal(state_dict["bn1.running_var"], statistics["var"])
    np.testing.assert_array_equal(state_dict["bn1.weight"], backbone["bn1"]["scale"])
    assert not any(name.startswith("layer1.0.downsample") for name in state_dict)


def test_names_of_the_deep_stem():
    names = name_table(random_variables(backbone="resnet50", stem="deep")).keys()
    stem = {name for name in names if not name.startswith("layer")}
    norms = {f"{bn}.{leaf}" for bn in ("conv1.1", "conv1.4", "bn1") for leaf in ("weight", "bias")}
    norms |= {f"{bn}.running_{leaf}" for bn in ("conv1.1", "conv1.4", "bn1") for leaf in ("mean", "var")}
    assert stem == {"conv1.0.weight", "conv1.3.weight", "conv1.6.weight"} | norms


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_the_model_s(tmp_path, state_dict, variables, others, dtype):
    """The file is put together byte by byte, after the format's description."""
    header, data = {}, b""
    kind = {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}[np.dtype(dtype).name]
    for name, value in state_dict.items():
        content = np.ascontiguousarray(value).astype(dtype).tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": value.shape, "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    loaded = load(path, others)
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix, dtype", [("pth", "float32"), ("pt", "float16"), ("pth", "bfloat16")])
def test_pickled_state_dicts(tmp_path, state_dict, variables, others, wrapped, suffix, dtype):
    torch = pytest.importorskip("torch")
    tensors = {k: torch.from_numpy(v.copy()).to(getattr(torch, dtype)) for k, v in state_dict.items()}
    # As named_parameters() gives them, which some published files were made of.
    tensors["conv1.weight"] = torch.nn.Parameter(tensors["conv1.weight"])
    path = tmp_path / f"weights.{suffix}"
    torch.save({"state_dict": tensors, "epoch": 3} if wrapped else tensors, path)
    loaded = load(path, others)
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])


def test_classifier_and_batch_counts_are_ignored(write, state_dict, variables, others):
    extra = {
        "fc.weight": np.ones((1000, 32), np.float32),
        "fc.bias": np.ones(1000, np.float32),
        "bn1.num_batches_tracked": np.array(7),
        "layer4.1.bn2.num_batches_tracked": np.array(7),
    }
    loaded = load(write(state_dict | extra), others)
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])


def test_one_message_lists_everything_that_does_not_fit(write, state_dict, others):
    changed = {k: v for k, v in state_dict.items() if k not in ("bn1.bias", "layer4.1.conv2.weight")}
    changed["layer5.0.conv1.weight"] = changed["fc.extra"] = np.ones(3, np.float32)
    changed["conv1.weight"] = np.ones((64, 3, 7, 7), np.float32)
    path = write(changed)
    assert message_of(path, others) == (
        f"{path} does not fit the model: "
        "missing 2 (bn1.bias, layer4.1.conv2.weight); "
        "unexpected 2 (fc.extra, layer5.0.conv1.weight); "
        "mis-shaped 1 (conv1.weight (64, 3, 7, 7) instead of (4, 3, 7, 7))"
    )


def test_a_long_list_is_cut(write, state_dict, others):
    path = write({k: v for k, v in state_dict.items() if not k.startswith("layer")})
    message = message_of(path, others)
    total = sum(name.startswith("layer") for name in state_dict)
    assert f"missing {total} (layer1.0.bn1.bias, " in message
    assert message.endswith(f" and {total - 10} more)")
    assert message.count("layer") == 10


def test_another_network_s_weights_do_not_fit(write, state_dict):
    path = write(state_dict)
    assert "missing" in message_of(path, random_variables(backbone="resnet50"))
    assert "mis-shaped" in message_of(path, random_variables(width=8))


def test_what_may_be_missing_keeps_its_value(write, state_dict, variables, others):
    path = write({k: v for k, v in state_dict.items() if not k.startswith("layer4.1.")})
    assert "missing 10 (layer4.1.bn1.bias" in message_of(path, others)
    assert "missing 5 (layer4.1.bn2" in message_of(path, others, ("layer4.1.*1.*",))
    loaded = load(path, others, ("layer4.1.*",))
    for collection in ("params", "batch_stats"):
        loaded_one, others_one, one = (tree[collection]["backbone"] for tree in (loaded, others, variables))
        assert_same(loaded_one["layer4_1"], others_one["layer4_1"])
        assert_same(loaded_one["layer4_0"], one["layer4_0"])


def test_a_pattern_that_matches_nothing(write, state_dict, others):
    path = write(state_dict)
    message = message_of(path, others, ("layer4.*", "layer9.*"))
    assert message == "config.model.pretrained_missing: 'layer9.*' matches no name of the model"


def test_absent_file_and_wrong_suffix(tmp_path, others):
    assert message_of(tmp_path / "no.pth", others) == f"{tmp_path / 'no.pth'}: there is no such file"
    assert message_of(tmp_path, others) == f"{tmp_path}: there is no such file"
    path = tmp_path / "weights.npz"
    path.write_bytes(b"")
    assert message_of(path, others) == f"{path}: a weights file ends in .safetensors, .pth or .pt"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a file of weights",
        struct.pack("<Q", 10**6) + b"{}",
        b'\x5e\x00\x00\x00\x00\x00\x00\x00{"conv1.weight":{"dtype":"F32",',
    ],
    ids=["empty", "text", "short", "half a header"],
)
def test_corrupt_safetensors(tmp_path, others, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert message_of(path, others).startswith(f"{path}: not a readable .safetensors file (")


def test_truncated_safetensors(write, state_dict, others):
    path = write(state_dict)
    path.write_bytes(path.read_bytes()[:-100])
    assert message_of(path, others).startswith(f"{path}: not a readable .safetensors file (")


class Code:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("by", ["pickle", "torch"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, others, by):
    torch = pytest.importorskip("torch")
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"
    content = {"conv1.weight": Code(marker)}
    if by == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    assert message_of(path, others).startswith(f"{path}: not a file of weights that is safe to read (")
    assert not marker.exists()
    # The file is as dangerous as it looks.
    torch.load(path, weights_only=False) if by == "torch" else pickle.loads(path.read_bytes())
    assert marker.exists()


def test_pickles_that_hold_no_state_dict(tmp_path, others):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    for content in ([torch.ones(2)], {"epoch": 3}, torch.ones(2), {"state_dict": [1]}, {"state_dict": None}):
        torch.save(content, path)
        assert message_of(path, others) == f"{path}: holds no state dict (a dictionary of tensors)"
    path.write_bytes(b"")
    assert message_of(path, others).startswith(f"{path}: not a file of weights that is safe to read (")


def test_without_pytorch(tmp_path, write, state_dict, others, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "weights.pth"
    path.write_bytes(b"anything")
    message = message_of(path, others)
    assert message.startswith(f"{path}: reading it needs PyTorch (pip install torch)")
    load(write(state_dict), others)  # .safetensors does not need it


@pytest.mark.skipif(not PARTIAL.is_file(), reason="the partial ImageNet weights are not here")
def test_the_partial_imagenet_weights():
    others = random_variables(width=64)
    absent = ("layer4.[01].conv[12].*", "layer4.[01].bn[12].*")
    assert "missing 20 (layer4.0.bn1.bias" in message_of(PARTIAL, others)
    assert "missing 4 (layer4.0.conv1" in message_of(PARTIAL, others, absent[1:])
    loaded = load(PARTIAL, others, absent)
    file = read_state_dict(PARTIAL)
    backbone = loaded["params"]["backbone"]
    np.testing.assert_array_equal(
        backbone["conv1"]["kernel"], np.transpose(file["conv1.weight"], (2, 3, 1, 0))
    )
    projection = np.transpose(file["layer4.0.downsample.0.weight"][:, :, 0, 0])
    np.testing.assert_array_equal(backbone["layer4_0"]["downsample_conv"]["kernel"], projection)
    untouched = others["params"]["backbone"]["layer4_1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(backbone["layer4_1"]["conv2"]["kernel"], untouched)
