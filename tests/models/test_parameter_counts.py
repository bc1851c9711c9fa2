"""Exact parameter counts of every named network, published and by arithmetic. Nothing compiles."""

import jax
import numpy as np
import pytest

from dpanet_jax import models
from dpanet_jax.models.segmenter import init_variables

# What is published (torchvision's, unless said), with the classifier of 1000 classes, and the channels of c4.
PUBLISHED = {
    "resnet18": (11_689_512, 512),
    "resnet34": (21_797_672, 512),
    "resnet50": (25_557_032, 2048),
    "resnet101": (44_549_160, 2048),
    "resnet152": (60_192_808, 2048),
    # PyTorch-Encoding's.
    "resnest50": (27_483_240, 2048),
    "resnest101": (48_275_016, 2048),
}


def conv(inputs, outputs, size, bias=False):
    return size * size * inputs * outputs + (outputs if bias else 0)


def conv_bn(inputs, outputs, size):
    return conv(inputs, outputs, size) + 2 * outputs


def backbone_count(name, stem="plain"):
    total, c4 = PUBLISHED[name]
    count = total - (c4 * 1000 + 1000)
    if name.startswith("resnest"):  # has the deep stem either way
        return count
    if stem == "v1c":  # mmsegmentation's ResNetV1c: 32, 32 and 64 channels, so that all else is as with plain
        return count - conv_bn(3, 64, 7) + conv_bn(3, 32, 3) + conv_bn(32, 32, 3) + conv_bn(32, 64, 3)
    if stem == "deep":
        count -= conv_bn(3, 64, 7)
        count += conv_bn(3, 64, 3) + conv_bn(64, 64, 3) + conv_bn(64, 128, 3)
        if c4 == 512:  # its first 3×3 convolution reads 128 channels, and the shortcut needs a projection
            count += conv(64, 64, 3) + conv_bn(128, 64, 1)
        else:  # its first 1×1 convolution and the projection read 128 channels instead of 64
            count += conv(64, 64, 1) + conv(64, 256, 1)
    return count


def fcn_count(channels, classes):
    return conv_bn(channels, channels // 4, 3) + conv(channels // 4, classes, 1, bias=True)


def dual_pool_count(c4, classes, reduced=512, fusion="concat", spatial="spa", channel="cpa", qkv="identity"):
    width = reduced or c4
    count = 2 * (conv_bn(c4, reduced, 3) + conv_bn(reduced, reduced, 3)) if reduced else 0
    count += (spatial == "spa") + (channel == "cpa")
    if qkv == "conv":
        count += 3 * conv(width, width, 1, bias=True)
    if spatial == "nonlocal":  # key and query are one convolution
        count += 2 * conv(width, width // 8, 1, bias=True) + conv(width // 8, width, 1, bias=True)
    count += conv(2 * width if fusion == "concat" else width, classes, 1, bias=True)
    return count + 2 * conv(width, classes, 1, bias=True)


def counted(num_classes, **options):
    """{part of the network: its number of parameters}."""
    model = models.build(num_classes, **options)
    params = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))["params"]
    return {
        part: sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(tree))
        for part, tree in params.items()
    }


# Written out, so that the arithmetic above cannot hide one of the networks.
BACKBONES = {
    ("resnet18", "plain"): 11_176_512,
    ("resnet34", "plain"): 21_284_672,
    ("resnet50", "plain"): 23_508_032,
    ("resnet101", "plain"): 42_500_160,
    ("resnet152", "plain"): 58_143_808,
    ("resnet18", "deep"): 11_324_992,
    ("resnet34", "deep"): 21_433_152,
    ("resnet50", "deep"): 23_631_808,
    ("resnet101", "deep"): 42_623_936,
    ("resnet152", "deep"): 58_267_584,
    ("resnet18", "v1c"): 11_195_744,
    ("resnet34", "v1c"): 21_303_904,
    ("resnet50", "v1c"): 23_527_264,
    ("resnet101", "v1c"): 42_519_392,
    ("resnet152", "v1c"): 58_163_040,
    ("resnest50", "plain"): 25_434_240,
    ("resnest101", "plain"): 46_226_016,
}


def test_every_architecture_has_its_count():
    assert PUBLISHED.keys() == models.BACKBONES.keys()
    stems = {
        name: ("plain",) if name.startswith("resnest") else ("plain", "deep", "v1c") for name in PUBLISHED
    }
    assert {(name, stem) for name in stems for stem in stems[name]} == BACKBONES.keys()


@pytest.mark.parametrize("name, stem", BACKBONES)
def test_dpanet_and_its_backbone(name, stem):
    c4 = PUBLISHED[name][1]
    assert BACKBONES[name, stem] == backbone_count(name, stem)
    assert counted(19, backbone=name, stem=stem) == {
        "backbone": BACKBONES[name, stem],
        "head": dual_pool_count(c4, 19),
        "auxiliary_head": fcn_count(c4 // 2, 19),
    }


def test_the_default_network_in_figures():
    assert sum(counted(19).values()) == 23_508_032 + 23_636_027 + 2_364_691


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("auxiliary", [True, False])
def test_fcn(name, auxiliary):
    c4 = PUBLISHED[name][1]
    expected = {"backbone": BACKBONES[name, "plain"], "head": fcn_count(c4, 11)}
    expected |= {"auxiliary_head": fcn_count(c4 // 2, 11)} if auxiliary else {}
    assert counted(11, name="fcn", backbone=name, auxiliary=auxiliary) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "sum"},
        {"reduce_channels": 64},
        {"reduce_channels": 0},
        {"reduce_channels": 0, "fusion": "sum"},
        {"qkv": "conv"},
        {"qkv": "conv", "reduce_channels": 0},
        {"spatial": "nonlocal"},
        {"spatial": "nonlocal", "reduce_channels": 0},
        {"spatial": "none", "channel": "none"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_head_options(options):
    arguments = {{"reduce_channels": "reduced"}.get(key, key): value for key, value in options.items()}
    assert counted(21, backbone="resnet18", auxiliary=False, **options) == {
        "backbone": BACKBONES["resnet18", "plain"],
        "head": dual_pool_count(512, 21, **arguments),
    }


@pytest.mark.parametrize(
    "options",
    [
        {"pool_sizes": "odd", "pool": "max", "affinity": "square"},
        {"multi_grid": (4, 8), "output_stride": 16},
        {"remat": True, "dtype": "bfloat16", "dropout": 0},
        {"bn_variance": "biased", "align_corners": True, "dilated_as_batch": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_options_that_add_no_parameter(options):
    assert counted(21, backbone="resnet18", **options) == counted(21, backbone="resnet18")


def test_resnet50_straight_on_c4():
    assert counted(19, reduce_channels=None)["head"] == dual_pool_count(2048, 19, 0)


def test_the_two_modules_are_two_parameters():
    with_them, without = (
        counted(19, backbone="resnet18", spatial=spatial, channel=channel)["head"]
        for spatial, channel in (("spa", "cpa"), ("none", "none"))
    )
    assert with_them - without == 2
