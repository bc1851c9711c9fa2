"""The networks: `build` makes one from plain options; the registry says which there are."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from dpanet_jax.models.heads.fcn import FCNHead
from dpanet_jax.models.layers import Numerics
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.models.registry import (
    BACKBONES,
    HEADS,
    NETWORKS,
    register_backbone,
    register_head,
    register_network,
)
from dpanet_jax.models.segmenter import Segmenter, init_variables
from dpanet_jax.options import Declared, OptionError, check_names, declared, family, merged, own_fields, used

__all__ = [
    "BACKBONES",
    "HEADS",
    "NETWORKS",
    "LossTerm",
    "Numerics",
    "Segmenter",
    "build",
    "init_variables",
    "register_backbone",
    "register_head",
    "register_network",
]


def build(
    num_classes: int,
    *,
    param_dtype: Any = "float32",
    axis_name: str | None = None,
    backbone_trains: bool = True,
    **options: Any,
) -> Segmenter:
    """The network for `num_classes` classes; `options` are the keys of `config.model`, there documented.

    `axis_name` is the mapped axis that batch norm averages over. With `backbone_trains` False the backbone
    computes in training as it does in inference, its batch norms by their stored statistics. None stands for
    0 in `reduce_channels` and for () in `multi_grid`. Raises OptionError (a ValueError) naming the option
    that is unknown, has a value that it may not have, or is not its default although no chosen module uses
    it.
    """
    if type(num_classes) is not int or num_classes < 1:
        raise OptionError(f"num_classes={num_classes!r}: must be a whole number, 1 or more")
    values = check_options(options)
    check_used(values)
    numerics = Numerics(
        param_dtype=_dtype_name(param_dtype), axis_name=axis_name, **own_fields(Numerics, values)
    )
    model = Segmenter(
        num_classes,
        numerics=numerics,
        options=values,
        backbone_trains=backbone_trains,
        **own_fields(Segmenter, values),
    )
    _check_modules(model)
    return model


def all_options() -> dict[str, Declared]:
    """{key: option} of every network that can be built: the keys of config.model."""
    return merged([*family(Segmenter), Numerics])


def used_options(values: Mapping[str, Any]) -> dict[str, Declared]:
    """{key: option} of those that the network which `values` (by key; else the defaults) choose uses."""
    own = declared(Segmenter)
    name = values.get("name", own["name"].default)
    if name in NETWORKS:
        found = {key: own[key] for key in ("name", "align_corners")} | used(NETWORKS[name], values)
    else:
        found = used(Segmenter, values)
        if values.get("auxiliary", own["auxiliary"].default):
            found |= declared(FCNHead)
    return found | declared(Numerics)


def all_loss_terms() -> dict[str, LossTerm]:
    """{term: output and default weight} of every head and network, and the auxiliary head's."""
    found: dict[str, LossTerm] = {}
    for owner in (*HEADS.values(), *NETWORKS.values()):
        for term, what in owner.LOSS_TERMS.items():
            if found.setdefault(term, what) != what:
                raise TypeError(f"the loss term {term} of {owner.__name__} is another than {found[term]}")
    return {**found, "auxiliary": Segmenter.AUXILIARY_TERM}


def check_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the modules take them. Raises OptionError for an unknown option or a wrong value."""
    known = all_options()
    check_names(values, known)
    checked = {}
    for key, value in values.items():
        if value is None and key in ("reduce_channels", "multi_grid"):
            value = type(known[key].default)()
        checked[key] = known[key].check(_dtype_name(value) if key == "dtype" else value)
    return checked


def check_used(values: Mapping[str, Any]) -> None:
    """Raises OptionError for an option that no chosen module uses and whose value is not its default."""
    in_use = used_options(values)
    for key, own in all_options().items():
        if key not in in_use and values.get(key, own.default) != own.default:
            chosen = ", ".join(
                f"{other}={values.get(other, what.default)}"
                for other, what in in_use.items()
                if what.choosing
            )
            raise OptionError(
                f"{key}={values[key]!r}: no chosen module uses it ({chosen}); "
                f"leave it at its default, {own.default!r}"
            )


def _check_modules(model: Segmenter) -> None:
    """Makes the network's parts once: what concerns several options at a time is checked there."""
    classes: dict[str, Any] = {"num_classes": model.num_classes}
    if model.head_name in NETWORKS:
        parts = [(NETWORKS[model.head_name], classes)]
    else:
        architecture = {"architecture": model.backbone_name}
        parts = [(BACKBONES[model.backbone_name], architecture), (HEADS[model.head_name], classes)]
    for cls, given in parts:
        if "options" in cls.__dataclass_fields__:
            given = {**given, "options": model.options}
        cls(**given, **own_fields(cls, model.options), numerics=model.numerics)


def _dtype_name(value: Any) -> Any:
    """The name of a dtype however it is given; what is none stays as it is, for the check to refuse."""
    try:
        return value if value is None else jnp.dtype(value).name
    except (TypeError, ValueError, SyntaxError):  # NumPy parses some strings as structures
        return value
