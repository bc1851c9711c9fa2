"""`build`: what it takes, and one clear line for every wrong option."""

import jax.numpy as jnp
import pytest

from dpanet_jax import models
from dpanet_jax.models.segmenter import Segmenter


def test_every_right_option_is_taken():
    model = models.build(2, width=8, multi_grid=[4, 8, 16], reduce_channels=None, dtype=jnp.bfloat16)
    assert isinstance(model, Segmenter)
    assert model.backbone_options["multi_grid"] == (4, 8, 16)
    assert model.head_options["reduce_channels"] == 0
    assert model.dtype == jnp.bfloat16 and model.param_dtype == jnp.float32
    assert models.build(2, multi_grid=None, dropout=0).backbone_options["multi_grid"] == ()


COUNT = "must be a whole number, {} or more"
DTYPE = "choose one of float32, bfloat16, float64"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "pspnet"}, "name='pspnet': choose one of dpanet, fcn"),
        (
            {"backbone": "resnet19"},
            "backbone='resnet19': choose one of resnet18, resnet34, resnet50, resnet101, resnet152, "
            "resnest50, resnest101",
        ),
        ({"backbone": "resnest50", "width": 7}, "width=7: must be even for a ResNeSt, whose splits halve it"),
        ({"bn_variance": "sample"}, "bn_variance='sample': choose one of unbiased, biased"),
        ({"align_corners": 1}, "align_corners=1: must be True or False"),
        ({"stem": 3}, "stem=3: choose one of plain, deep"),
        ({"output_stride": 4}, "output_stride=4: choose one of 8, 16, 32"),
        ({"output_stride": "8"}, "output_stride='8': choose one of 8, 16, 32"),
        ({"output_stride": 8.0}, "output_stride=8.0: choose one of 8, 16, 32"),
        ({"fusion": None}, "fusion=None: choose one of concat, sum"),
        ({"spatial": "SPA"}, "spatial='SPA': choose one of spa, nonlocal, none"),
        ({"channel": ["cpa"]}, "channel=['cpa']: choose one of cpa, none"),
        ({"pool_sizes": (1, 4)}, "pool_sizes=(1, 4): choose one of mixed, even, odd"),
        ({"qkv": True}, "qkv=True: choose one of identity, conv"),
        ({"pool": "mean"}, "pool='mean': choose one of avg, max"),
        ({"affinity": {}}, "affinity={}: choose one of subtract, square"),
        ({"width": "64"}, f"width='64': {COUNT.format(1)}"),
        ({"width": 0}, f"width=0: {COUNT.format(1)}"),
        ({"width": True}, f"width=True: {COUNT.format(1)}"),
        ({"reduce_channels": 1.5}, f"reduce_channels=1.5: {COUNT.format(0)}"),
        ({"reduce_channels": -1}, f"reduce_channels=-1: {COUNT.format(0)}"),
        ({"num_classes": 0}, f"num_classes=0: {COUNT.format(1)}"),
        ({"num_classes": "19"}, f"num_classes='19': {COUNT.format(1)}"),
        ({"auxiliary": 0.4}, "auxiliary=0.4: must be True or False"),
        ({"remat": "yes"}, "remat='yes': must be True or False"),
        ({"dropout": 1}, "dropout=1: must be a number, at least 0 and below 1"),
        ({"dropout": "0.1"}, "dropout='0.1': must be a number, at least 0 and below 1"),
        ({"dropout": float("nan")}, "dropout=nan: must be a number, at least 0 and below 1"),
        ({"axis_name": 3}, "axis_name=3: must be the name of a mapped axis, or None"),
        ({"multi_grid": "4816"}, "multi_grid='4816': must be a tuple of dilations, or ()"),
        ({"multi_grid": (4, 8, 0)}, "multi_grid=(4, 8, 0): must be a tuple of dilations, or ()"),
        ({"multi_grid": 4}, "multi_grid=4: must be a tuple of dilations, or ()"),
        (
            {"multi_grid": (4, 8)},
            "multi_grid=(4, 8): the last stage of resnet50 has 3 blocks, each needs one dilation",
        ),
        ({"dtype": "float3"}, f"dtype='float3': {DTYPE}"),
        ({"dtype": "int32"}, f"dtype='int32': {DTYPE}"),
        ({"dtype": None}, f"dtype=None: {DTYPE}"),
        ({"dtype": {"a": 1}}, f"dtype={{'a': 1}}: {DTYPE}"),
        ({"dtype": ","}, f"dtype=',': {DTYPE}"),
        ({"param_dtype": 32}, f"param_dtype=32: {DTYPE}"),
    ],
    ids=str,
)
def test_a_wrong_value_is_one_clear_line(options, message):
    with pytest.raises(ValueError) as error:
        models.build(**{"num_classes": 19, **options})
    assert str(error.value) == message


def test_an_unknown_option_says_which_was_meant():
    with pytest.raises(ValueError) as error:
        models.build(19, output_strid=8)
    message = str(error.value)
    assert message.startswith("'output_strid' is not an option of a model; did you mean output_stride? ")
    assert "\n" not in message
    with pytest.raises(ValueError, match=r"^'xyz' is not an option of a model; The options are name, backb"):
        models.build(19, xyz=1)
