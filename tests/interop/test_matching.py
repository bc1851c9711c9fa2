"""Prefixes before a file's names, parts that have no counterpart, and advice that works to the letter."""

import shlex

import jax
import numpy as np
import pytest

from dpanet_jax import models
from dpanet_jax.interop.advice import patterns_of
from dpanet_jax.interop.errors import WeightsError
from dpanet_jax.interop.torch import fit, matched_to, to_state_dict
from dpanet_jax.models.segmenter import init_variables


def random_variables(seed=0, classes=2, **options):
    options = {"backbone": "resnet18", "width": 4, "output_stride": 32, **options}
    if options.get("name", "dpanet") == "dpanet":
        options = {"reduce_channels": 8, **options}
    model = models.build(classes, **options)
    shapes = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


@pytest.fixture(scope="module")
def variables():
    return random_variables(0)


@pytest.fixture(scope="module")
def others():
    return random_variables(1)


def prefixed(prefix, state_dict):
    return {prefix + name: value for name, value in state_dict.items()}


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def message_of(state_dict, variables, missing=()):
    with pytest.raises(WeightsError) as error:
        fit(state_dict, variables, missing)
    assert "\n" not in str(error.value)
    return str(error.value)


def advised(message):
    """The patterns of the flag in a message, read as a shell and the configuration read it."""
    start = message.index('--config.model.pretrained_missing="')
    (flag,) = shlex.split(message[start : message.index(')"', start) + 2])
    return eval(flag.partition("=")[2])


PREFIXES = [
    "module.",
    "model.",
    "net.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.module.",
    "_forward_module._orig_mod.",
    "module.model.network.",
    "state_dict.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_one_prefix_before_every_name_is_taken_off(prefix, variables, others):
    assert_same(fit(prefixed(prefix, to_state_dict(variables)), others), variables)


@pytest.mark.parametrize("prefix", [*PREFIXES, "backbone.", "encoder.", "module.backbone.", "model.encoder."])
def test_of_a_backbone_too(prefix, variables, others):
    state_dict = to_state_dict(variables, backbone_only=True)
    state_dict["bn1.num_batches_tracked"], state_dict["fc.weight"] = np.array(3), np.ones((10, 32))
    loaded = fit(prefixed(prefix, state_dict), others)
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])
    assert_same(loaded["batch_stats"]["backbone"], variables["batch_stats"]["backbone"])
    assert_same(loaded["params"]["head"], others["params"]["head"])


@pytest.mark.parametrize(
    "backbone, beside",
    [
        ("backbone.", ["classifier.4.weight", "aux_classifier.0.weight"]),
        ("backbone.", ["decode_head.conv_seg.weight", "auxiliary_head.0.conv_seg.bias", "neck.a.weight"]),
        ("backbone.", ["head.fc.weight"]),
        ("encoder.", ["decoder.blocks.0.conv1.0.weight", "segmentation_head.0.weight"]),
        ("backbone.body.", ["backbone.fpn.inner_blocks.0.0.weight", "rpn.head.conv.0.0.weight"]),
        ("module.backbone.", ["module.classifier.low_level.weight"]),
        ("model.encoder.", ["model.decoder.a.weight", "model.segmentation_head.0.bias"]),
    ],
)
def test_a_network_with_other_heads_gives_its_backbone(backbone, beside, variables, others):
    """And what is left out is said."""
    state_dict = prefixed(backbone, to_state_dict(variables, backbone_only=True))
    state_dict |= {name: np.ones(3, np.float32) for name in beside}
    assert_same(fit(state_dict, others)["params"]["backbone"], variables["params"]["backbone"])
    said = matched_to(state_dict, others).said[0]
    assert f"under {backbone!r}" in said and f"({len(beside)} arrays)" in said


@pytest.mark.parametrize("prefix", ["model.", "model.backbone."])
def test_what_is_not_known_is_named_with_the_pattern_that_leaves_it_out(prefix, variables, others):
    """A loss's weights and a metric's matrix, as Lightning saves them with the network."""
    state_dict = prefixed(prefix, to_state_dict(variables, backbone_only=True))
    state_dict |= {"criterion.weight": np.ones(2), "val_iou.confmat": np.ones((2, 2))}
    message = message_of(state_dict, others)
    assert "unexpected 2 (criterion.weight, val_iou.confmat)" in message and repr(prefix) in message
    assert advised(message) == ("criterion.*", "val_iou.*")
    loaded = fit(state_dict, others, advised(message))
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])


def test_the_same_network_several_times(variables, others):
    """A teacher beside a student: which one is to be taken is for the user to say."""
    state_dict = prefixed("student.", to_state_dict(variables))
    state_dict |= prefixed("teacher.", to_state_dict(others))
    message = message_of(state_dict, random_variables(2))
    assert "under the prefixes 'student.pretrained.', 'teacher.pretrained.'" in message
    assert advised(message) == ("teacher.*",)
    assert_same(fit(state_dict, random_variables(2), advised(message)), variables)
    assert_same(fit(state_dict, random_variables(2), ("student.*",)), others)
    # Names without a prefix are the network's.
    state_dict = {**to_state_dict(variables), **prefixed("ema.", to_state_dict(others))}
    message = message_of(state_dict, random_variables(2))
    assert advised(message) == ("ema.*",)
    assert_same(fit(state_dict, random_variables(2), ("ema.*",)), variables)


def test_one_flag_for_everything_that_is_to_be_left_out(variables, others):
    """MoCo keeps a queue beside its two encoders; and a second flag would take the place of the first."""
    backbone = to_state_dict(variables, backbone_only=True)
    state_dict = prefixed("module.encoder_q.", backbone) | prefixed("module.encoder_k.", backbone)
    state_dict |= {"module.queue": np.ones((2, 3)), "module.queue_ptr": np.ones(1), "loss.weight": np.ones(2)}
    message = message_of(state_dict, others)
    expected = ("module.encoder_k.*", "loss.*", "module.queue", "module.queue_ptr")
    assert "several times" in message and advised(message) == expected
    assert_same(fit(state_dict, others, expected)["params"]["backbone"], variables["params"]["backbone"])
    message = message_of(state_dict, others, ("module.encoder_q.*",))
    assert advised(message) == ("module.encoder_q.*", "loss.*", "module.queue", "module.queue_ptr")
    fit(state_dict, others, advised(message))


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_wrappers_inside_of_names(wrapper, variables, others):
    """Of single modules that were compiled, sharded, or computed again in the backward pass."""
    state_dict = {
        name.replace("layer1.", f"layer1.{wrapper}.").replace("head.", f"head.{wrapper}."): value
        for name, value in to_state_dict(variables).items()
    }
    assert_same(fit(state_dict, others), variables)
    state_dict["head._orig_mod.extra"] = np.ones(3)
    assert advised(message_of(state_dict, others)) in [("head.extra",), ("head._orig_mod.extra",)]
    assert_same(fit(state_dict, others, advised(message_of(state_dict, others))), variables)


@pytest.mark.parametrize("prefix", ["resnet_", "model-", "Net/"])
def test_a_prefix_that_does_not_end_with_a_dot(prefix, variables, others):
    state_dict = prefixed(prefix, to_state_dict(variables, backbone_only=True))
    assert_same(fit(state_dict, others)["params"]["backbone"], variables["params"]["backbone"])
    assert_same(fit(prefixed(prefix, to_state_dict(variables)), others), variables)


def test_weights_that_were_quantized(variables, others):
    state_dict = to_state_dict(variables)
    state_dict["head.conv51.0.weight"] = state_dict["head.conv51.0.weight"].astype(np.int8)
    assert "holds whole numbers as weights: 1 (head.conv51.0.weight)" in message_of(state_dict, others)


def test_a_name_with_a_line_break_is_told_in_one_line(variables, others):
    state_dict = {**to_state_dict(variables), "a\nb": np.ones(3)}
    assert "unexpected 1 ('a\\nb')" in message_of(state_dict, others)


def test_advice_lets_nothing_else_differ(variables, others):
    """`model.*` would let every name below `model.` be missing."""
    state_dict = prefixed("model.encoder.", to_state_dict(variables, backbone_only=True))
    state_dict |= {"model.mean": np.ones(3), "model.std": np.ones(3)}
    assert advised(message_of(state_dict, others)) == ("model.mean", "model.std")
    del state_dict["model.encoder.bn1.bias"]
    assert "missing 1 (bn1.bias)" in message_of(state_dict, others, ("model.mean", "model.std"))


def test_an_average_s_count_is_no_weight(variables, others):
    """torch.optim.swa_utils.AveragedModel keeps one beside the network."""
    state_dict = {**prefixed("module.", to_state_dict(variables)), "n_averaged": np.array(7)}
    assert_same(fit(state_dict, others), variables)


def test_another_number_of_classes(others):
    """The advice names each classifier and nothing else, and takes everything but these."""
    theirs = random_variables(0, classes=21)
    message = message_of(prefixed("module.", to_state_dict(theirs)), others)
    assert "the file is for 21 classes and the model for 2" in message
    assert advised(message) == ("auxlayer.conv5.4.*", "head.conv6.*", "head.conv7.*", "head.conv8.*")
    loaded = fit(prefixed("module.", to_state_dict(theirs)), others, advised(message))
    for name, module in loaded["params"]["head"].items():
        assert_same(module, (others if "classifier" in name else theirs)["params"]["head"][name])
    assert_same(loaded["batch_stats"], theirs["batch_stats"])


def test_another_head(others):
    """An FCN's file for a DPANet: its heads are left out by one flag."""
    theirs = random_variables(0, name="fcn")
    message = message_of(to_state_dict(theirs), others)
    assert "missing" in message and "unexpected 7 (head.conv5.0.weight" in message
    loaded = fit(to_state_dict(theirs), others, advised(message))
    assert_same(loaded["params"]["head"], others["params"]["head"])
    assert_same(loaded["params"]["auxiliary_head"], theirs["params"]["auxiliary_head"])


@pytest.mark.parametrize(
    "theirs, words",
    [
        ({"backbone": "resnet34"}, "config.model.backbone=resnet34)"),
        ({"backbone": "resnet50"}, "config.model.backbone=resnet50)"),
        ({"backbone": "resnest50"}, "config.model.backbone=resnest50)"),
        ({"width": 8}, "config.model.width=8)"),
        ({"stem": "deep"}, "config.model.stem=deep)"),
        ({"stem": "v1c"}, "config.model.stem=v1c)"),
        ({"backbone": "resnet101", "stem": "v1c", "width": 2}, "resnet101, config.model.stem=v1c, "),
    ],
    ids=str,
)
@pytest.mark.parametrize("backbone_only", [True, False])
def test_another_backbone_is_named(theirs, words, backbone_only, others):
    state_dict = to_state_dict(random_variables(0, **theirs), backbone_only=backbone_only)
    message = message_of(prefixed("model.", state_dict), others)
    assert f"the file's backbone is one for {words}" in message or words in message
    assert "the file's backbone is one for config.model." in message


def test_pooled_shortcuts_are_named(variables, others):
    """ResNet-D and V1d: nothing here computes that."""
    state_dict = to_state_dict(random_variables(0, stem="v1c"), backbone_only=True)
    names = {name: name.replace("downsample.1", "downsample.2") for name in state_dict}
    names = {name: new.replace("downsample.0", "downsample.1") for name, new in names.items()}
    state_dict = {names[name]: value for name, value in state_dict.items()}
    assert "shortcuts are pooled, as ResNet-D's and V1d's" in message_of(state_dict, others)


def test_a_network_of_another_kind(others):
    state_dict = {f"features.{i}.weight": np.ones(3) for i in range(30)}
    message = message_of(state_dict, others)
    assert "none of its 30 names is the model's" in message and "features.0.weight" in message
    assert "bn1.bias" in message and len(message) < 400


@pytest.mark.parametrize("name, value", [("bn1.bias", np.nan), ("layer1.0.conv1.weight", -np.inf)])
def test_numbers_that_no_network_computes_with(name, value, variables, others):
    """Of a training that failed."""
    state_dict = to_state_dict(variables, backbone_only=True)
    fit(state_dict, others)
    state_dict[name] = state_dict[name].copy()
    state_dict[name].flat[-1] = value
    message = message_of(state_dict, others)
    assert f"holds NaN or infinite numbers: 1 ({name})" in message


def test_patterns_match_these_names_and_no_other():
    everything = ["a.b.weight", "a.b.bias", "a.c.weight", "ab.weight", "scale", "d.e.f", "d.e.g"]
    assert patterns_of(["a.b.weight", "a.b.bias", "scale"], everything) == ["a.b.*", "scale"]
    assert patterns_of(["a.b.weight"], everything) == ["a.b.weight"]
    assert patterns_of(["d.e.f", "d.e.g", "ab.weight"], everything) == ["ab.*", "d.*"]


def test_patterns_may_be_of_the_file_s_own_names(variables, others):
    state_dict = prefixed("model.", to_state_dict(variables, backbone_only=True))
    del state_dict["model.bn1.bias"]
    assert "missing 1 (bn1.bias)" in message_of(state_dict, others)
    state_dict["model.layer4.1.bn2.weight"] = np.ones(5, np.float32)
    patterns = ("bn1.bias", "model.layer4.1.bn2.*")
    loaded = fit(state_dict, others, patterns)["params"]["backbone"]
    kept = others["params"]["backbone"]
    np.testing.assert_array_equal(loaded["layer4_1"]["bn2"]["scale"], kept["layer4_1"]["bn2"]["scale"])
    np.testing.assert_array_equal(loaded["bn1"]["bias"], kept["bn1"]["bias"])
