"""What of a network is not trained: its backbone, or the backbone's batch norms alone.

A frozen batch norm is a constant map of each channel, as torchvision's FrozenBatchNorm2d: it uses the stored
statistics in training too, and neither they nor its scale and bias change. (mmsegmentation's `norm_eval`
freezes the statistics alone.) A frozen backbone has frozen batch norms, and none of its other parameters
change either. What is frozen has no gradient, no weight decay and no place in the optimizer's state.
"""

from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from dpanet_jax.training.options import Freeze

_BACKBONE = "backbone"


def split(params: Any, batch_stats: Any, freeze: Freeze) -> tuple[Any, Any]:
    """(those that are trained, those that are frozen) of a network's parameters; of "nothing" all and {}.

    The backbone's stand under "backbone". Scale and bias of a batch norm stand where its statistics do.
    """
    if freeze == "nothing":
        return params, {}
    norms = {path[:-1] for path in flatten_dict(batch_stats)}

    def is_frozen(path: tuple[str, ...]) -> bool:
        return path[0] == _BACKBONE and (freeze == "backbone" or path[:-1] in norms)

    trained: dict[tuple[str, ...], Any] = {}
    frozen: dict[tuple[str, ...], Any] = {}
    for path, leaf in flatten_dict(params).items():
        (frozen if is_frozen(path) else trained)[path] = leaf
    return unflatten_dict(trained), unflatten_dict(frozen)


def join(trained: Any, frozen: Any) -> Any:
    """The inverse of `split`."""
    if not frozen:
        return trained
    return unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))
