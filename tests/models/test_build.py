"""`build`: what it takes, and one clear line for every wrong option."""

import re

import jax.numpy as jnp
import pytest

from dpanet_jax import models
from dpanet_jax.models.segmenter import Segmenter
from dpanet_jax.options import OptionError


def test_every_right_option_is_taken():
    model = models.build(2, width=8, multi_grid=[4, 8, 16], reduce_channels=None, dtype=jnp.bfloat16)
    assert isinstance(model, Segmenter)
    assert model.options["multi_grid"] == (4, 8, 16)
    assert model.options["reduce_channels"] == 0
    assert model.dtype == jnp.bfloat16 and model.numerics.param_dtype == "float32"
    assert models.build(2, multi_grid=None, dropout=0).options["multi_grid"] == ()


def test_equal_options_make_equal_models():
    """What is compiled for one is used for the other."""
    one, other = (models.build(2, width=8, multi_grid=grid) for grid in ([4, 8, 16], (4, 8, 16)))
    assert one == other and hash(one) == hash(other)
    assert models.build(2, width=16) != models.build(2, width=8)


ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnest50", "resnest101")
DTYPES = ("float32", "bfloat16", "float64")
BOOLEAN = ("True or False",)
COUNT = ("whole number",)
GRID = ("tuple",)


@pytest.mark.parametrize(
    "option, words",
    [
        ({"name": "pspnet"}, ("dpanet", "fcn")),
        ({"name": 3}, ("dpanet", "fcn")),
        ({"backbone": "resnet19"}, ARCHITECTURES),
        ({"bn_variance": "sample"}, ("unbiased", "biased")),
        ({"align_corners": 1}, BOOLEAN),
        ({"stem": 3}, ("plain", "deep", "v1c")),
        ({"output_stride": 4}, (8, 16, 32)),
        ({"output_stride": "8"}, (8, 16, 32)),
        ({"output_stride": 8.0}, (8, 16, 32)),
        ({"fusion": None}, ("concat", "sum")),
        ({"spatial": "SPA"}, ("spa", "nonlocal", "none")),
        ({"channel": ["cpa"]}, ("cpa", "none")),
        ({"pool_sizes": (1, 4)}, ("mixed", "even", "odd")),
        ({"qkv": True}, ("identity", "conv")),
        ({"pool": "mean"}, ("avg", "max")),
        ({"affinity": {}}, ("subtract", "square")),
        ({"width": "64"}, COUNT),
        ({"width": 0}, ("at least 1",)),
        ({"width": True}, COUNT),
        ({"width": None}, COUNT),
        ({"reduce_channels": 1.5}, COUNT),
        ({"reduce_channels": -1}, ("at least 0",)),
        ({"num_classes": 0}, COUNT),
        ({"num_classes": "19"}, COUNT),
        ({"num_classes": True}, COUNT),
        ({"auxiliary": 0.4}, BOOLEAN),
        ({"remat": "yes"}, BOOLEAN),
        ({"dropout": 1}, ("at least 0 and below 1",)),
        ({"dropout": -0.1}, ("at least 0 and below 1",)),
        ({"dropout": "0.1"}, ("number",)),
        ({"dropout": float("nan")}, ("finite",)),
        ({"axis_name": 3}, ("mapped axis", "None")),
        ({"multi_grid": "4816"}, GRID),
        ({"multi_grid": (4, 8, 0)}, ("at least 1",)),
        ({"multi_grid": (4, 8, 1.5)}, ("whole numbers",)),
        ({"multi_grid": 4}, GRID),
        ({"multi_grid": (4, 8)}, ("resnet50", "3 blocks")),
        ({"dtype": "float3"}, DTYPES),
        ({"dtype": "int32"}, DTYPES),
        ({"dtype": None}, DTYPES),
        ({"dtype": {"a": 1}}, DTYPES),
        ({"dtype": ","}, DTYPES),
        ({"param_dtype": 32}, DTYPES),
    ],
    ids=str,
)
def test_a_wrong_value_is_one_line_that_names_it(assert_names, option, words):
    with pytest.raises(OptionError) as error:
        models.build(**{"num_classes": 19, **option})
    (wrong,) = option.items()
    # A float is read as one before its bounds are looked at.
    assert_names(error.value, (wrong[0], float(wrong[1]) if option == {"dropout": 1} else wrong[1]), words)


def test_an_odd_width_is_refused_where_a_splits_halve_it(assert_names):
    with pytest.raises(OptionError) as error:
        models.build(19, backbone="resnest50", width=7)
    assert_names(error.value, ("width", 7), ("even",))
    models.build(19, width=7)


def test_an_unknown_option_says_which_was_meant():
    with pytest.raises(
        OptionError, match="output_strid is not an option; did you mean output_stride?"
    ) as error:
        models.build(19, output_strid=8)
    assert "\n" not in str(error.value)
    with pytest.raises(OptionError, match="xyz is not an option") as error:
        models.build(19, xyz=1)
    assert "did you mean" not in str(error.value)
    # Without a near one, all there are help.
    assert all(re.search(rf"\b{name}\b", str(error.value)) for name in models.all_options())


UNUSED = {
    "the FCN has no branches": {"name": "fcn", "reduce_channels": 64},
    "nor their modules": {"name": "fcn", "affinity": "square"},
    "a ResNeSt's stem is always deep": {"backbone": "resnest50", "stem": "deep"},
    "without SPA nothing is pooled": {"spatial": "none", "pool_sizes": "odd"},
    "the non-local block pools nothing": {"spatial": "nonlocal", "pool": "max"},
    "without CPA nothing is compared": {"channel": "none", "affinity": "square"},
}


@pytest.mark.parametrize("options", UNUSED.values(), ids=UNUSED)
def test_an_option_that_no_chosen_module_uses_is_an_error(assert_names, options):
    (chosen, unused) = options.items()
    default = models.all_options()[unused[0]].default
    with pytest.raises(OptionError) as error:
        models.build(19, **options)
    assert_names(error.value, unused, ("default", repr(default), f"{chosen[0]}={chosen[1]}"))
    # The advice helps, and so does choosing what uses it.
    models.build(19, **{**options, unused[0]: default})
    models.build(19, **dict([unused]))
