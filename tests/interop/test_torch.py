"""Weights in and out: exact round trips, published checkpoints, an error for all that does not fit."""

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from dpanet_jax import models
from dpanet_jax.interop.files import write_state_dict
from dpanet_jax.interop.torch import WeightsError, load, name_table, read_state_dict, to_state_dict
from dpanet_jax.models.segmenter import init_variables

PARTIAL = Path(__file__).parents[2].parent / "shared" / "weights" / "resnet18_imagenet_partial.safetensors"
# Half precision has these numbers too.
EXACT = np.arange(-8, 9) / 4
FAMILIES = [
    {},
    {"backbone": "resnet50", "width": 2, "stem": "deep", "auxiliary": False},
    {"backbone": "resnest50"},
    {"backbone": "resnest101", "width": 2, "name": "dpanet"},
    {"name": "dpanet"},
    {"name": "dpanet", "qkv": "conv", "fusion": "sum", "channel": "none"},
    {"name": "dpanet", "spatial": "nonlocal", "reduce_channels": 0},
]


def random_variables(seed=0, num_classes=2, **options):
    """Variables of a small network, of random values that half precision holds exactly."""
    options = {"name": "fcn", "backbone": "resnet18", "width": 4, "output_stride": 32, **options}
    if options["name"] == "dpanet":
        options = {"reduce_channels": 8, **options}
    model = models.build(num_classes, **options)
    shapes = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.asarray(rng.choice(EXACT, leaf.shape), leaf.dtype), shapes)


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
    """The backbone's."""
    return to_state_dict(variables, backbone_only=True)


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


@pytest.mark.parametrize("options", FAMILIES, ids=str)
def test_round_trip_is_exact(tmp_path, options):
    """Both ways, of the whole network and of its backbone alone, which leaves the heads as they were."""
    variables, others = (random_variables(seed, **options) for seed in (0, 1))
    path = tmp_path / "weights.safetensors"
    whole = to_state_dict(variables)
    write_state_dict(whole, path)
    loaded = load(path, others)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    assert_same(loaded, variables)
    assert_same(to_state_dict(loaded), whole)
    assert_same(read_state_dict(path), whole)

    write_state_dict(to_state_dict(variables, backbone_only=True), path)
    loaded = load(path, others)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    for collection in ("params", "batch_stats"):
        for part, leaves in loaded[collection].items():
            assert_same(leaves, (variables if part == "backbone" else others)[collection][part])


def test_float64_stays_exact(tmp_path):
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float64) / 3, random_variables(0, name="dpanet"))
    others = jax.tree.map(np.zeros_like, variables)
    state_dict = to_state_dict(variables)
    assert {value.dtype for value in state_dict.values()} == {np.dtype(np.float64)}
    write_state_dict(state_dict, tmp_path / "weights.safetensors")
    assert_same(load(tmp_path / "weights.safetensors", others), variables)


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
    assert state_dict.keys() == name_table(variables, backbone_only=True).keys()


def test_lambda_and_mu_are_of_one_element_there():
    variables = random_variables(name="dpanet")
    variables["params"]["head"]["spa"]["lambda"] = np.float32(0.5)
    state_dict = to_state_dict(variables)
    np.testing.assert_array_equal(state_dict["head.sa.gamma"], np.array([0.5], np.float32))
    assert state_dict["head.sc.gamma"].shape == (1,)


def test_what_names_leave_out_is_ignored(write, state_dict, variables, others):
    """ImageNet's classifier and the batch counts, of a backbone and of an older whole network."""
    extra = {
        "fc.weight": np.ones((1000, 32), np.float32),
        "fc.bias": np.ones(1000, np.float32),
        "bn1.num_batches_tracked": np.array(7),
        "layer4.1.bn2.num_batches_tracked": np.array(7),
    }
    loaded = load(write(state_dict | extra), others)
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])
    extra = {f"pretrained.{name}": value for name, value in extra.items()}
    extra["head.conv5.1.num_batches_tracked"] = np.array(7)
    assert_same(load(write(to_state_dict(variables) | extra), others), variables)


def test_names_inside_data_parallel(write, state_dict, variables, others):
    wrapped = {f"module.{name}": value for name, value in state_dict.items()}
    assert_same(load(write(wrapped), others)["params"]["backbone"], variables["params"]["backbone"])
    wrapped = {f"module.{name}": value for name, value in to_state_dict(variables).items()}
    assert_same(load(write(wrapped), others), variables)
    # One name that has no such prefix, and it is none.
    assert "unexpected" in message_of(write({**wrapped, "pretrained.bn1.bias": np.ones(4)}), others)


def test_half_precision_becomes_the_model_s(write, variables, others):
    halves = {name: value.astype(np.float16) for name, value in to_state_dict(variables).items()}
    assert_same(load(write(halves), others), variables)


def test_a_network_of_pytorch_encoding(tmp_path, variables, others):
    """As its training saves it: under state_dict, in a .pth.tar, with a score, in whatever precision."""
    torch = pytest.importorskip("torch")
    tensors = {k: torch.from_numpy(v.copy()).half() for k, v in to_state_dict(variables).items()}
    tensors["head.conv5.1.num_batches_tracked"] = torch.tensor(7)
    path = tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 3, "state_dict": tensors, "best_pred": np.float64(0.7)}, path)
    assert_same(load(path, others), variables)


def test_a_network_with_or_without_auxiliary_head(write, variables):
    alone = random_variables(1, auxiliary=False)
    names = "auxlayer.conv5.0.weight, auxlayer.conv5.1.bias, auxlayer.conv5.1.running_mean"
    path = write(to_state_dict(variables))
    assert f"does not fit the model: unexpected 7 ({names}, " in message_of(path, alone)
    loaded = load(path, alone, ("auxlayer.*",))
    for collection in ("params", "batch_stats"):
        assert_same(loaded[collection], {k: variables[collection][k] for k in ("backbone", "head")})
    path = write(to_state_dict(alone))
    assert f"does not fit the model: missing 7 ({names}, " in message_of(path, variables)
    loaded = load(path, variables, ("auxlayer.*",))
    assert_same(loaded["params"]["auxiliary_head"], variables["params"]["auxiliary_head"])
    assert_same(loaded["params"]["head"], alone["params"]["head"])


def danet(variables):
    """A DANet's file: of DPANet's names, with its position attention's own in head.sa, and no auxlayer."""
    state_dict = {k: v for k, v in to_state_dict(variables).items() if not k.startswith("head.sa.")}
    for name, features in (("query", 1), ("key", 1), ("value", 8)):
        state_dict[f"head.sa.{name}_conv.weight"] = np.full((features, 8, 1, 1), 7, np.float32)
        state_dict[f"head.sa.{name}_conv.bias"] = np.full(features, 7, np.float32)
    return {**state_dict, "head.sa.gamma": np.full(1, 7, np.float32)}


@pytest.mark.parametrize(
    "module", [{}, {"qkv": "conv"}, {"spatial": "nonlocal"}, {"spatial": "none"}], ids=str
)
def test_a_danet(write, module):
    """Everything but the module that DPANet replaces: λ is not its gamma, and μ is that of its CAM."""
    options = {"name": "dpanet", "fusion": "sum", "auxiliary": False, **module}
    variables, others = (random_variables(seed, **options) for seed in (0, 1))
    variables["params"]["head"]["cpa"]["mu"] = np.float32(0.375)
    loaded = load(write(danet(variables)), others)
    expected = {**variables["params"]["head"]}
    for replaced in ("spa", "nonlocal"):
        if replaced in expected:
            expected[replaced] = others["params"]["head"][replaced]
    assert_same(loaded["params"]["head"], expected)
    for part in (("params", "backbone"), ("batch_stats", "backbone"), ("batch_stats", "head")):
        assert_same(loaded[part[0]][part[1]], variables[part[0]][part[1]])


def test_a_danet_and_what_it_has_no_place_for(write):
    options = {"name": "dpanet", "auxiliary": False}
    path = write(danet(random_variables(0, **options, fusion="sum")))
    message = message_of(path, random_variables(1, **options))
    assert message == (
        f"{path} does not fit the model: mis-shaped 1 (head.conv8.1.weight (2, 8, 1, 1) instead of "
        "(2, 16, 1, 1)) (the file's classifier is one for config.model.fusion='sum'); to take what fits, and "
        "leave these as they are, give --config.model.pretrained_missing=\"('head.conv8.1.weight',)\""
    )
    others = random_variables(1, **options, fusion="sum", channel="none")
    assert "model: unexpected 1 (head.sc.gamma); to take what fits" in message_of(path, others)
    loaded = load(path, random_variables(1, **options), ("head.conv8.1.weight",))
    kept = random_variables(1, **options)["params"]["head"]["classifier"]["kernel"]
    np.testing.assert_array_equal(loaded["params"]["head"]["classifier"]["kernel"], kept)


def test_our_own_convolutions_are_no_danet_s(write):
    """SPA with qkv="conv" has names in common with it, and is not to be dropped without a word."""
    variables = random_variables(0, name="dpanet", qkv="conv")
    message = message_of(write(to_state_dict(variables)), random_variables(1, name="dpanet"))
    assert "unexpected 6 (head.sa.key_conv.bias, " in message and "missing 6" not in message
    message = message_of(write(to_state_dict(variables)), random_variables(1, name="dpanet", fusion="sum"))
    assert "(the file's classifier is one for config.model.fusion='concat')" in message


def test_another_number_of_classes(write):
    variables = random_variables(0, num_classes=3, name="dpanet")
    others = random_variables(1, name="dpanet")
    path = write(to_state_dict(variables))
    message = message_of(path, others)
    assert "mis-shaped 8 (auxlayer.conv5.4.bias (3,) instead of (2,), " in message
    assert "fusion" not in message
    loaded = load(path, others, ("head.conv[678].*", "auxlayer.conv5.4.*"))
    for name, module in loaded["params"]["head"].items():
        assert_same(module, (others if "classifier" in name else variables)["params"]["head"][name])
    classifier = loaded["params"]["auxiliary_head"]["classifier"]
    assert_same(classifier, others["params"]["auxiliary_head"]["classifier"])
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])


def test_another_head(write, variables):
    """An FCN's backbone and auxiliary head into a DPANet."""
    others = random_variables(1, name="dpanet")
    loaded = load(write(to_state_dict(variables)), others, ("head.*",))
    assert_same(loaded["params"]["head"], others["params"]["head"])
    for part in ("backbone", "auxiliary_head"):
        assert_same(loaded["params"][part], variables["params"][part])


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
    assert "missing" in message_of(path, random_variables(backbone="resnest50"))
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
    words = "matches no name of the model or of"
    for pattern in ("layer9.*", "pretrained.layer4.*"):  # the file's names are bare
        message = message_of(path, others, ("layer4.*", pattern))
        assert message == f"config.model.pretrained_missing: {pattern!r} {words} {path}"


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
