"""The networks: `build` makes one from plain options."""

import difflib

import jax.numpy as jnp

from dpanet_jax.models.attention import POOL_SIZES, choose
from dpanet_jax.models.heads import CHANNEL, FUSION, SPATIAL
from dpanet_jax.models.layers import BN_VARIANCES
from dpanet_jax.models.resnet import ARCHITECTURES, STEMS
from dpanet_jax.models.segmenter import Segmenter

_DEFAULTS = {
    "name": "dpanet",
    "backbone": "resnet50",
    "stem": "plain",
    "width": 64,
    "output_stride": 8,
    "multi_grid": (),
    "reduce_channels": 512,
    "fusion": "concat",
    "spatial": "spa",
    "channel": "cpa",
    "pool_sizes": "mixed",
    "qkv": "identity",
    "pool": "avg",
    "affinity": "subtract",
    "auxiliary": True,
    "dropout": 0.1,
    "dtype": "float32",
    "param_dtype": "float32",
    "axis_name": None,
    "remat": False,
    "bn_variance": "unbiased",
    "align_corners": False,
}

_CHOICES = {
    "name": ("dpanet", "fcn"),
    "backbone": tuple(ARCHITECTURES),
    "stem": STEMS,
    "output_stride": (8, 16, 32),
    "fusion": FUSION,
    "spatial": SPATIAL,
    "channel": CHANNEL,
    "pool_sizes": tuple(POOL_SIZES),
    "qkv": ("identity", "conv"),
    "pool": ("avg", "max"),
    "affinity": ("subtract", "square"),
    "bn_variance": BN_VARIANCES,
}
_DTYPES = ("float32", "bfloat16", "float64")

_BACKBONE = ("stem", "width", "output_stride", "remat")
_HEAD = (
    "reduce_channels",
    "fusion",
    "spatial",
    "channel",
    "pool_sizes",
    "qkv",
    "pool",
    "affinity",
)


def build(num_classes: int, **options) -> Segmenter:
    """The network for `num_classes` classes; `options` are the keys of `config.model` (there documented).

    Besides those: `param_dtype`, and `axis_name`, the mapped axis that batch norm averages over. None
    stands for 0 in `reduce_channels` and for () in `multi_grid`. Raises ValueError naming the option that
    is unknown, of a wrong type or not among its choices.
    """
    for name in options:
        if name not in _DEFAULTS:
            near = difflib.get_close_matches(name, _DEFAULTS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            known = ", ".join(_DEFAULTS)
            raise ValueError(f"{name!r} is not an option of a model; {hint}The options are {known}")
    values = {**_DEFAULTS, **options}
    for name, empty in (("reduce_channels", 0), ("multi_grid", ())):
        values[name] = empty if values[name] is None else values[name]
    _check(num_classes, values)
    dtypes = {name: _dtype(name, values[name]) for name in ("dtype", "param_dtype")}
    return Segmenter(
        num_classes=num_classes,
        head_name=values["name"],
        backbone_options={
            "architecture": values["backbone"],
            "multi_grid": tuple(values["multi_grid"]),
            **{name: values[name] for name in _BACKBONE},
        },
        head_options={name: values[name] for name in _HEAD},
        auxiliary=values["auxiliary"],
        dropout=float(values["dropout"]),
        **dtypes,
        **{name: values[name] for name in ("axis_name", "bn_variance", "align_corners")},
    )


def _check(num_classes, values) -> None:
    for name, choices in _CHOICES.items():
        choose(name, values[name], choices)
    counts = {"num_classes": (num_classes, 1), "width": (values["width"], 1)}
    counts["reduce_channels"] = (values["reduce_channels"], 0)
    for name, (value, least) in counts.items():
        if not _is_count(value, least):
            raise ValueError(f"{name}={value!r}: must be a whole number, {least} or more")
    if values["backbone"].startswith("resnest") and values["width"] % 2:
        raise ValueError(f"width={values['width']}: must be even for a ResNeSt, whose splits halve it")
    for name in ("auxiliary", "remat", "align_corners"):
        if not isinstance(values[name], bool):
            raise ValueError(f"{name}={values[name]!r}: must be True or False")
    dropout, axis_name, multi_grid = values["dropout"], values["axis_name"], values["multi_grid"]
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r}: must be a number, at least 0 and below 1")
    if not (axis_name is None or isinstance(axis_name, str)):
        raise ValueError(f"axis_name={axis_name!r}: must be the name of a mapped axis, or None")
    if not isinstance(multi_grid, tuple | list) or not all(_is_count(d, 1) for d in multi_grid):
        raise ValueError(f"multi_grid={multi_grid!r}: must be a tuple of dilations, or ()")
    depth = ARCHITECTURES[values["backbone"]][1][3]
    if len(multi_grid) not in (0, depth):
        raise ValueError(
            f"multi_grid={multi_grid!r}: the last stage of {values['backbone']} has {depth} blocks, "
            "each needs one dilation"
        )


def _is_count(value, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _dtype(name: str, value) -> jnp.dtype:
    try:
        dtype = None if value is None else jnp.dtype(value)
    except (TypeError, ValueError, SyntaxError):  # NumPy parses some strings as structures
        dtype = None
    if dtype is None or dtype.name not in _DTYPES:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(_DTYPES)}")
    return dtype
