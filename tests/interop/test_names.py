"""The tables of names: they cover every family, and what they say is what the published networks say."""

import jax
import numpy as np
import pytest

from dpanet_jax import models
from dpanet_jax.errors import DPANetError
from dpanet_jax.interop import names
from dpanet_jax.interop.names import is_danet, name_table
from dpanet_jax.interop.torch import WeightsError, fit, to_state_dict
from dpanet_jax.models.segmenter import init_variables

SMALL = {"backbone": "resnet18", "width": 4, "output_stride": 32}
# Every family, and every module of the heads, is in one of these.
FAMILIES = {
    "fcn": {"name": "fcn"},
    "resnet50": {"backbone": "resnet50", "width": 2},
    "deep": {"stem": "deep", "fusion": "sum"},
    "resnest50": {"backbone": "resnest50"},
    "resnest101": {"backbone": "resnest101", "name": "fcn", "auxiliary": False, "width": 2},
    "conv": {"qkv": "conv"},
    "nonlocal": {"spatial": "nonlocal"},
    "none": {"spatial": "none", "channel": "none"},
    "straight": {"reduce_channels": 0, "auxiliary": False},
}


def options_of(family):
    options = {**SMALL, **FAMILIES[family]}
    return options if options.get("name") == "fcn" else {"reduce_channels": 8, **options}


def shapes(family):
    model = models.build(3, **options_of(family))
    return jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))


@pytest.fixture(scope="module")
def tables():
    return {family: name_table(shapes(family)) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_leaf_has_one_name(tables, family):
    variables = shapes(family)
    paths, _ = jax.tree_util.tree_flatten_with_path(variables)
    assert sorted(tables[family].values()) == sorted(tuple(e.key for e in path) for path, _ in paths)
    bare = name_table(variables, backbone_only=True)
    pretrained = {name: path for name, path in tables[family].items() if name.startswith("pretrained.")}
    assert {f"pretrained.{name}": path for name, path in bare.items()} == pretrained


def test_every_line_of_the_tables_is_used(tables):
    """What a table lists, one of the networks above has: a misspelt module would be no one's."""
    used = {"/".join(path[1:-1]) for table in tables.values() for path in table.values()}
    leaves = {path[-1] for table in tables.values() for path in table.values()}
    assert leaves == set(names.LEAVES)
    heads = {f"head/{module}" for module in (*names.FCN_HEAD, *names.DPANET_HEAD)}
    stems = {f"backbone/{module}" for module in (*names.PLAIN_STEM, *names.DEEP_STEM)}
    assert heads | stems | {f"auxiliary_head/{module}" for module in names.FCN_HEAD} <= used
    for family, block in (("resnet50", names.RESNET_BLOCK), ("resnest50", names.RESNEST_BLOCK)):
        used = {"/".join(path[3:-1]) for path in tables[family].values() if path[2].startswith("layer")}
        assert used == set(block)
    for table in (names.DEEP_STEM, names.RESNET_BLOCK, names.RESNEST_BLOCK, names.FCN_HEAD):
        assert len(set(table.values())) == len(table)


BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def norms(*modules):
    return {f"{module}.{leaf}" for module in modules for leaf in BATCH_NORM}


def below(table, prefix):
    return {name for name in table if name.startswith(prefix)}


def test_names_of_the_stems(tables):
    backbone = below(tables["deep"], "pretrained.") - below(tables["deep"], "pretrained.layer")
    convolutions = {f"pretrained.conv1.{i}.weight" for i in (0, 3, 6)}
    deep = convolutions | norms("pretrained.conv1.1", "pretrained.conv1.4", "pretrained.bn1")
    assert backbone == deep
    backbone = below(tables["resnest50"], "pretrained.") - below(tables["resnest50"], "pretrained.layer")
    assert backbone == deep
    backbone = below(tables["fcn"], "pretrained.") - below(tables["fcn"], "pretrained.layer")
    assert backbone == {"pretrained.conv1.weight"} | norms("pretrained.bn1")


def test_names_of_a_resnest_block(tables):
    block = "pretrained.layer1.0."
    convolutions = {"conv1.weight", "conv2.conv.weight", "conv3.weight", "downsample.1.weight"}
    biased = {f"conv2.{fc}.{leaf}" for fc in ("fc1", "fc2") for leaf in ("weight", "bias")}
    expected = convolutions | biased | norms("bn1", "conv2.bn0", "conv2.bn1", "bn3", "downsample.2")
    assert below(tables["resnest50"], block) == {block + name for name in expected}
    # 101 has 23 blocks in layer3, and no gap among them.
    blocks = {int(name.split(".")[2]) for name in below(tables["resnest101"], "pretrained.layer3.")}
    assert blocks == set(range(23))


def test_names_of_the_heads(tables):
    expected = {"conv5.0.weight", "conv5.4.weight", "conv5.4.bias"} | norms("conv5.1")
    for part in ("head", "auxlayer"):
        assert below(tables["fcn"], part) == {f"{part}.{name}" for name in expected}
    branches = ("conv5a", "conv5c", "conv51", "conv52")
    expected = {f"{branch}.0.weight" for branch in branches} | norms(*(f"{branch}.1" for branch in branches))
    classifiers = {f"conv{i}.1.{leaf}" for i in (6, 7, 8) for leaf in ("weight", "bias")}
    expected |= classifiers | {"sa.gamma", "sc.gamma"}
    assert below(tables["deep"], "head.") == {f"head.{name}" for name in expected}
    straight = classifiers | {"sa.gamma", "sc.gamma"}
    assert below(tables["straight"], "head.") == {f"head.{name}" for name in straight}
    assert not below(tables["straight"], "auxlayer.")
    assert below(tables["conv"], "head.sa.") == set(names.DANET_ATTENTION)
    assert not below(tables["none"], "head.s")


def test_modules_stand_for_one_another(tables):
    """Names are a matter of spelling; that conv51 is the spatial branch's is one of meaning."""
    table = tables["deep"]
    head = ("params", "head")
    assert table["head.sa.gamma"] == (*head, "spa", "lambda")
    assert table["head.sc.gamma"] == (*head, "cpa", "mu")
    assert table["head.conv5a.0.weight"] == (*head, "spatial_in_conv", "kernel")
    assert table["head.conv5c.0.weight"] == (*head, "channel_in_conv", "kernel")
    assert table["head.conv51.1.weight"] == (*head, "spatial_out_bn", "scale")
    assert table["head.conv52.1.running_var"] == ("batch_stats", "head", "channel_out_bn", "var")
    assert table["head.conv6.1.bias"] == (*head, "spatial_classifier", "bias")
    assert table["head.conv7.1.bias"] == (*head, "channel_classifier", "bias")
    assert table["head.conv8.1.bias"] == (*head, "classifier", "bias")
    assert table["auxlayer.conv5.1.bias"] == ("params", "auxiliary_head", "bn", "bias")


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_are_the_twin_s(family):
    """The network in PyTorch, written after the published ones, has these tensors and no other."""
    pytest.importorskip("torch")
    from dpanet_jax.interop import twin
    from dpanet_jax.interop.torch import torch_shape

    variables = shapes(family)
    expected = twin.build(3, **options_of(family)).state_dict()
    expected = {k: tuple(v.shape) for k, v in expected.items() if not k.endswith("num_batches_tracked")}
    ours = {}
    for name, path in name_table(variables).items():
        leaf = variables
        for key in path:
            leaf = leaf[key]
        ours[name] = torch_shape(leaf.shape)
    assert ours == expected


def message_of(function, *args):
    with pytest.raises(WeightsError) as error:
        function(*args)
    assert isinstance(error.value, DPANetError) and "\n" not in str(error.value)
    return str(error.value)


def test_a_module_in_no_table():
    variables = {
        "params": {"backbone": {"layer1_0": {"conv2": {"kernel": 0}}}, "head": {"new": {"kernel": 0}}}
    }
    assert name_table(variables, backbone_only=True) == {
        "layer1.0.conv2.weight": ("params", "backbone", "layer1_0", "conv2", "kernel")
    }
    advice = "give the head a table by dpanet_jax.interop.names.register_head_names"
    words = "has no name of its own in PyTorch"
    assert message_of(name_table, variables) == f"head/new/kernel {words}: {advice}"
    # What is named is what the nearest table lacks.
    variables["params"]["head"] = {"conv": {"kernel": 0}, "bn": {"bias": 0, "other": 0}}
    assert message_of(name_table, variables) == f"head/bn/other {words}: {advice}"
    variables["params"]["auxiliary_head"] = {"other": {"kernel": 0}}
    variables["params"].pop("head")
    assert message_of(name_table, variables).startswith(f"auxiliary_head/other/kernel {words}")
    for part in ("backbone", "network"):
        message = message_of(name_table, {"params": {part: {"new": {"kernel": 0}}}})
        assert message.startswith(f"{part}/new/kernel {words}: give the {part} a table")
        assert message.endswith(f"register_{part}_names")
    assert message_of(name_table, {"params": {"conv1": {"kernel": 0}}}).startswith(
        "conv1 is no part of a network"
    )


@pytest.fixture
def registries():
    """What a test registers is gone afterwards."""
    every = (names.HEAD_NAMES, names.BACKBONE_NAMES, names.NETWORK_NAMES)
    before = [dict(registry) for registry in every]
    yield
    for registry, tables in zip(every, before, strict=True):
        registry.clear()
        registry.update(tables)


@pytest.mark.usefixtures("registries")
class TestNamesOfOnesOwn:
    """Tables for what stands outside of the package."""

    def test_a_head(self):
        variables = {
            "params": {
                "backbone": {"conv1": {"kernel": 0}, "layer1_0": {"conv2": {"kernel": 0}}},
                "head": {"gate": {"kernel": 0, "level": 0}, "norm": {"scale": 0}, "offset": 0},
                "auxiliary_head": {"classifier": {"kernel": 0}},
            },
            "batch_stats": {"head": {"norm": {"mean": 0}}},
        }
        table = {
            "gate": "gate.0",
            "gate/level": "gate.level",
            "norm": "gate.1",
            "offset": "offset",
            "absent": "x",
        }
        names.register_head_names("mine", table)
        found = name_table(variables)
        assert {name for name in found if name.startswith("head.")} == {
            "head.gate.0.weight",
            "head.gate.level",
            "head.gate.1.weight",
            "head.gate.1.running_mean",
            "head.offset",
        }
        assert found["head.gate.level"] == ("params", "head", "gate", "level")
        assert {"pretrained.conv1.weight", "auxlayer.conv5.4.weight"} <= found.keys()

    def test_a_head_whose_modules_another_one_has_too(self):
        """The smallest table that has them all is the head's: DPANet's has a `classifier` among others."""
        names.register_head_names("mine", {"classifier": "cls"})
        assert name_table({"params": {"head": {"classifier": {"bias": 0}}}}).keys() == {"head.cls.bias"}
        straight = {name: {"bias": 0} for name in ("classifier", "spatial_classifier", "channel_classifier")}
        expected = {f"head.conv{i}.1.bias" for i in (6, 7, 8)}
        assert name_table({"params": {"head": straight}}).keys() == expected
        # An auxiliary head is an FCN head, whatever else is registered.
        auxiliary = {"params": {"auxiliary_head": {"classifier": {"bias": 0}}}}
        assert name_table(auxiliary).keys() == {"auxlayer.conv5.4.bias"}

    def test_two_heads_that_cannot_be_told_apart(self):
        names.register_head_names("mine", {"conv": "a", "bn": "b", "classifier": "c"})
        head = {"params": {"head": {"conv": {"kernel": 0}, "classifier": {"bias": 0}}}}
        message = message_of(name_table, head)
        assert message.startswith("head/conv/kernel has no name of its own in PyTorch: two registered tables")
        names.HEAD_NAMES["mine"] = dict(names.FCN_HEAD)  # of the same names: it does not matter which
        assert name_table(head).keys() == {"head.conv5.0.weight", "head.conv5.4.bias"}

    def test_a_backbone(self):
        names.register_backbone_names("mine", {"stem": "features.0", "body/conv": "features.1"})
        params = {"backbone": {"stem": {"kernel": 0}, "body": {"conv": {"kernel": 0}}}}
        bare = {"features.0.weight", "features.1.weight"}
        assert name_table({"params": params}, backbone_only=True).keys() == bare
        assert name_table({"params": params}).keys() == {f"pretrained.{name}" for name in bare}

    def test_a_whole_network(self):
        """Its names stand as they are, also where a ResNet's file has what is left out."""
        names.register_network_names("mine", {"": "", "fc": "fc", "level": "level"})
        variables = {"params": {"network": {"fc": {"kernel": np.zeros((3, 2))}, "level": np.zeros(())}}}
        assert name_table(variables).keys() == {"fc.weight", "level"}
        state_dict = {"fc.weight": np.ones((2, 3, 1, 1)), "level": np.ones(1)}
        loaded = fit(state_dict, variables)["params"]["network"]
        assert (loaded["fc"]["kernel"] == 1).all() and loaded["level"] == 1
        exported = to_state_dict(variables)
        assert {name: value.shape for name, value in exported.items()} == {
            "fc.weight": (2, 3, 1, 1),
            "level": (1,),
        }

    def test_a_name_twice(self):
        names.register_head_names("mine", {"a": "same", "b": "same"})
        params = {"head": {"a": {"kernel": 0}, "b": {"kernel": 0}}}
        message = message_of(name_table, {"params": params})
        assert message == "head/a/kernel and head/b/kernel have one name in PyTorch, head.same.weight"
        # Alternatives may share a name, as SPA's and the non-local block's values do.
        del params["head"]["b"]
        assert name_table({"params": params}).keys() == {"head.same.weight"}

    def test_another_table_of_the_same_name(self):
        names.register_head_names("mine", {"a": "x"})
        names.register_head_names("mine", {"a": "x"})
        message = message_of(names.register_head_names, "mine", {"a": "y"})
        assert message == "the names of mine are registered already, and are others"
        assert "fcn" in message_of(names.register_head_names, "fcn", {})


def test_danet_is_known_by_its_queries():
    query = "head.sa.query_conv.weight"
    assert is_danet({query: np.ones((2, 16, 1, 1))})
    assert not is_danet({query: np.ones((16, 16, 1, 1))})
    assert not is_danet({"head.sa.gamma": np.ones(1)})
