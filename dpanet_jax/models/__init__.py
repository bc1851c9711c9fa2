"""The networks: `build` makes one from plain options."""

import difflib

import jax.numpy as jnp

from dpanet_jax.models.attention import POOL_SIZES, choose
from dpanet_jax.models.heads import CHANNEL, FUSION, SPATIAL
from dpanet_jax.models.resnet import ARCHITECTURES
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
}

_CHOICES = {
    "name": ("dpanet", "fcn"),
    "backbone": tuple(ARCHITECTURES),
    "stem": ("plain", "deep"),
    "output_stride": (8, 16, 32),
    "fusion": FUSION,
    "spatial": SPATIAL,
    "channel": CHANNEL,
    "pool_sizes": tuple(POOL_SIZES),
    "qkv": ("identity", "conv"),
    "pool": ("avg", "max"),
    "affinity": ("subtract", "square"),
}

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
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_DEFAULTS)}"
            raise ValueError(f"{name!r} is not an option of a model; {hint}")
    values = {**_DEFAULTS, **options}
    values["reduce_channels"] = values["reduce_channels"] or 0
    values["multi_grid"] = tuple(values["multi_grid"] or ())
    _check(num_classes, values)
    return Segmenter(
        num_classes=num_classes,
        head_name=values["name"],
        backbone_options={
            "architecture": values["backbone"],
            "multi_grid": values["multi_grid"],
            **{name: values[name] for name in _BACKBONE},
        },
        head_options={name: values[name] for name in _HEAD},
        auxiliary=values["auxiliary"],
        dropout=float(values["dropout"]),
        dtype=jnp.dtype(values["dtype"]),
        param_dtype=jnp.dtype(values["param_dtype"]),
        axis_name=values["axis_name"],
    )


def _check(num_classes, values) -> None:
    for name, choices in _CHOICES.items():
        choose(name, values[name], choices)
    counts = {"num_classes": num_classes, "width": values["width"]}
    counts["reduce_channels"] = values["reduce_channels"] + 1  # 0 is allowed
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r}: must be a whole number above 0")
    for name in ("auxiliary", "remat"):
        if not isinstance(values[name], bool):
            raise ValueError(f"{name}={values[name]!r}: must be True or False")
    if not 0 <= values["dropout"] < 1:
        raise ValueError(f"dropout={values['dropout']!r}: must be in [0, 1)")
    depth = ARCHITECTURES[values["backbone"]][1][3]
    if values["multi_grid"] and len(values["multi_grid"]) != depth:
        raise ValueError(
            f"multi_grid={values['multi_grid']}: the last stage of {values['backbone']} has {depth} blocks"
        )
