"""DPANet's twin in plain PyTorch, written after the published architectures and not after the Flax code.

It is what the Flax network is compared with: the same options, PyTorch's published parameter names. This
package needs PyTorch; nothing outside it does.
"""

import difflib

from dpanet_jax.interop.twin.heads import POOL_SIZES
from dpanet_jax.interop.twin.optimizer import poly_lr, set_lr, sgd
from dpanet_jax.interop.twin.resnet import ARCHITECTURES, STEMS
from dpanet_jax.interop.twin.segmenter import IGNORE_LABEL, TERMS, Segmenter

__all__ = ["IGNORE_LABEL", "TERMS", "Segmenter", "build", "poly_lr", "set_lr", "sgd"]

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
    "align_corners": False,
}
_CHOICES = {
    "name": ("dpanet", "fcn"),
    "backbone": tuple(ARCHITECTURES),
    "stem": STEMS,
    "output_stride": (8, 16, 32),
    "fusion": ("concat", "sum"),
    "spatial": ("spa", "nonlocal", "none"),
    "channel": ("cpa", "none"),
    "pool_sizes": tuple(POOL_SIZES),
    "qkv": ("identity", "conv"),
    "pool": ("avg", "max"),
    "affinity": ("subtract", "square"),
    "auxiliary": (True, False),
    "align_corners": (True, False),
}
_BACKBONE = ("stem", "width", "output_stride", "multi_grid")
_HEAD = ("reduce_channels", "fusion", "spatial", "channel", "pool_sizes", "qkv", "pool", "affinity")
_IGNORED = ("dtype", "param_dtype", "axis_name", "remat", "bn_variance", "pretrained", "pretrained_missing")


def build(num_classes: int, **options) -> Segmenter:
    """The network for `num_classes` classes, in training mode, float32 and with random weights.

    `options` are the keys of `config.model`, there documented, with the same defaults. Taken and ignored:
    dtype and param_dtype (use `.double()`), axis_name, remat, bn_variance (PyTorch keeps the unbiased one),
    pretrained and pretrained_missing (use `load_state_dict`). Raises ValueError naming the option that is
    unknown or whose value is wrong.
    """
    for name in options:
        if name not in _DEFAULTS and name not in _IGNORED:
            near = difflib.get_close_matches(name, [*_DEFAULTS, *_IGNORED], n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"{name!r} is not an option; {hint}The options are {', '.join(_DEFAULTS)}")
    values = {**_DEFAULTS, **{name: value for name, value in options.items() if name in _DEFAULTS}}
    values["reduce_channels"] = values["reduce_channels"] or 0
    values["multi_grid"] = () if values["multi_grid"] is None else values["multi_grid"]
    _check(num_classes, values)
    return Segmenter(
        num_classes,
        values["name"],
        {"architecture": values["backbone"], **{name: values[name] for name in _BACKBONE}},
        {name: values[name] for name in _HEAD},
        **{name: values[name] for name in ("auxiliary", "dropout", "align_corners")},
    )


def _check(num_classes, values: dict) -> None:
    for name, choices in _CHOICES.items():
        if values[name] not in choices:
            known = ", ".join(map(repr, choices))
            raise ValueError(f"{name}={values[name]!r}: choose one of {known}")
    counts = (("num_classes", num_classes, 1), ("width", values["width"], 1))
    for name, value, least in (*counts, ("reduce_channels", values["reduce_channels"], 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: must be a whole number, {least} or more")
    dropout, grid = values["dropout"], values["multi_grid"]
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r}: must be a number, at least 0 and below 1")
    depth = ARCHITECTURES[values["backbone"]][1][3]
    whole = isinstance(grid, tuple | list) and all(isinstance(d, int) and d > 0 for d in grid)
    if not whole or len(grid) not in (0, depth):
        raise ValueError(f"multi_grid={grid!r}: must be () or {depth} dilations, one a block of layer4")
