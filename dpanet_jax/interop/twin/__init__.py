"""DPANet's twin in plain PyTorch, written after the published architectures and not after the Flax code.

It is what the Flax network is compared with: the same options, PyTorch's published parameter names. It takes
from the Flax code what an option may be and what a loss term is called, and nothing that is computed. This
package needs PyTorch; nothing outside it does.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dpanet_jax import models
from dpanet_jax.interop.options import Pretrained
from dpanet_jax.interop.twin.heads import DPANetHead
from dpanet_jax.interop.twin.optimizer import poly_lr, set_lr, sgd
from dpanet_jax.interop.twin.resnet import ARCHITECTURES, ResNet
from dpanet_jax.interop.twin.segmenter import Segmenter
from dpanet_jax.options import OptionError, declared

__all__ = ["HEADS", "Segmenter", "build", "poly_lr", "require_twin", "set_lr", "sgd"]

HEADS = ("dpanet", "fcn")
# Arguments of `models.build` that are no options, and options of where weights come from.
_NOT_OPTIONS = ("param_dtype", "axis_name", *declared(Pretrained))


def build(num_classes: int, **options: Any) -> Segmenter:
    """The network for `num_classes` classes, in training mode, float32 and with random weights.

    `options` are the keys of `config.model`, there documented, with the same defaults. Taken and ignored:
    dtype and param_dtype (use `.double()`), axis_name, remat, bn_variance (PyTorch keeps the unbiased one),
    dilated_as_batch, pretrained and pretrained_missing (use `load_state_dict`). Raises OptionError (a
    ValueError) where `models.build` does, and for a network that has no twin.
    """
    given = {name: value for name, value in options.items() if name not in _NOT_OPTIONS}
    chosen = models.build(num_classes, **given).options
    require_twin(chosen)
    values = {name: own.default for name, own in models.all_options().items()} | dict(chosen)
    return Segmenter(
        num_classes,
        values["name"],
        {"architecture": values["backbone"], **_arguments(ResNet, values)},
        _arguments(DPANetHead, values),
        terms={term: what.output for term, what in models.all_loss_terms().items()},
        auxiliary=values["auxiliary"],
        dropout=values["dropout"],
        align_corners=values["align_corners"],
    )


def require_twin(options: Mapping[str, Any]) -> None:
    """Raises OptionError where the options (by key; else the defaults) choose a network that has no twin."""
    own = models.all_options()
    for key, known in (("name", HEADS), ("backbone", tuple(ARCHITECTURES))):
        value = options.get(key, own[key].default)
        if value not in known:
            raise OptionError(f"{key}={value!r} has no PyTorch twin: choose one of {', '.join(known)}")


def _arguments(make: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are arguments of a part of the twin, but for dropout, which all share."""
    return {n: values[n] for n in inspect.signature(make).parameters if n in values and n != "dropout"}
