"""Weights with PyTorch's names, into a Segmenter and out of it.

Each name stands in an explicit table (`names`), made from the model's own variables; every key of a file
(`files`) is accounted for.
"""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from dpanet_jax.interop.files import Source, WeightsError, read_state_dict
from dpanet_jax.interop.names import DANET_ATTENTION, DATA_PARALLEL, IGNORED, is_danet, name_table

_SHOWN = 10
_FUSED = "head.conv8.1.weight"

StateDict = dict[str, np.ndarray]


def load(path: Source, variables: dict[str, Any], missing: tuple[str, ...] = ()) -> dict[str, Any]:
    """`variables` of a Segmenter with the weights of a file in their place.

    `path` is what `files.read_state_dict` takes: a .safetensors file, one of PyTorch's, or
    hf://OWNER/NAME[/FILE]. A file whose names begin with `pretrained.` is of a whole network
    (PyTorch-Encoding's FCN, DANet, or ours) and replaces everything; any other is of a backbone (torchvision,
    PyTorch-Encoding's ResNet-s, ResNeSt, timm) and leaves the heads as they are. A network that is registered
    as a whole is replaced as a whole. Values are cast to the model's dtype.

    A name that is missing, unexpected or mis-shaped is a WeightsError that lists them all, but for those
    that `missing`, patterns of fnmatch, names: what the model has of these keeps its value where the file
    lacks it or holds it in another shape, and what the file alone has is left out. So
    ("head.conv[678].*", "auxlayer.conv5.4.*") takes a checkpoint to another number of classes, and
    ("head.*",) to another head. A pattern that matches no name on either side is an error too.

    Of a DANet the position attention, `head.sa`, is left out: SPA, which stands in its place, keeps its
    values. Its channel attention is CPA with affinity "subtract", and its branches are added: fusion "sum".
    """
    return fit(read(path), variables, missing, path)


def read(path: Source) -> StateDict:
    """A file's {name: array}, the names as they are outside of DataParallel. Raises WeightsError."""
    return _without_prefix(read_state_dict(path))


def fit(
    state_dict: StateDict,
    variables: dict[str, Any],
    missing: tuple[str, ...] = (),
    path: Source = "the state dict",
) -> dict[str, Any]:
    """`load`, of a state dict that was read before; `path` is what errors call it."""
    whole = "backbone" not in variables["params"] or any(n.startswith("pretrained.") for n in state_dict)
    table = name_table(variables, backbone_only=not whole)
    for pattern in missing:
        if not fnmatch.filter(table.keys() | state_dict.keys(), pattern):
            raise WeightsError(
                f"config.model.pretrained_missing: {pattern!r} matches no name of the model or of {path}"
            )
    left_out = _matching(state_dict, IGNORED) - table.keys()
    if is_danet(state_dict):
        left_out |= state_dict.keys() & set(DANET_ATTENTION)
        table = {name: key for name, key in table.items() if not name.startswith("head.sa.")}
    state_dict = {name: value for name, value in state_dict.items() if name not in left_out}

    allowed = _matching(table.keys() | state_dict.keys(), missing)
    shapes = {name: torch_shape(_get(variables, key).shape) for name, key in table.items()}
    both = [name for name in table if name in state_dict]
    wrong = {name for name in both if state_dict[name].shape != shapes[name]}
    problems = {
        "missing": sorted(table.keys() - state_dict.keys() - allowed),
        "unexpected": sorted(state_dict.keys() - table.keys() - allowed),
        "mis-shaped": [
            f"{name} {state_dict[name].shape} instead of {shapes[name]}" for name in sorted(wrong - allowed)
        ],
    }
    words = [f"{kind} {_listed(names)}" for kind, names in problems.items() if names]
    if words:
        hint = _fusion_hint(state_dict, shapes) if _FUSED in wrong - allowed else ""
        raise WeightsError(f"{path} does not fit the model: {'; '.join(words)}{hint}")
    leaves = {}
    for name in both:
        if name not in wrong:
            old = _get(variables, table[name])
            leaves[table[name]] = from_torch(state_dict[name], old.shape).astype(old.dtype)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(tuple(entry.key for entry in path), leaf), variables
    )


def to_state_dict(variables: dict[str, Any], backbone_only: bool = False) -> StateDict:
    """The inverse of `load`: {name: array in PyTorch's layout} of the whole network, or of its backbone.

    float32, or float64 where the variables are. Raises WeightsError for a module that has no name in PyTorch.
    """
    state_dict = {}
    for name, key in name_table(variables, backbone_only).items():
        value = np.asarray(_get(variables, key))
        dtype = np.float64 if value.dtype == np.float64 else np.float32
        state_dict[name] = to_torch(value.astype(dtype))
    return state_dict


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in PyTorch of a parameter: HWIO → OIHW, (in, out) → (out, in, 1, 1), () → (1,)."""
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    if len(shape) == 2:
        return (shape[1], shape[0], 1, 1)
    return shape or (1,)


def from_torch(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A value in PyTorch's layout → ours, of `shape`."""
    if len(shape) == 4:
        return value.transpose(2, 3, 1, 0)
    if len(shape) == 2:
        return value[:, :, 0, 0].T
    return value.reshape(shape)


def to_torch(value: np.ndarray) -> np.ndarray:
    """A value in our layout → PyTorch's."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T[:, :, None, None] if value.ndim == 2 else np.atleast_1d(value)


def _without_prefix(state_dict: StateDict) -> StateDict:
    """A network's names as they are outside of DataParallel."""
    if not all(name.startswith(DATA_PARALLEL) for name in state_dict):
        return state_dict
    return {name.removeprefix(DATA_PARALLEL): value for name, value in state_dict.items()}


def _matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    return {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


def _fusion_hint(state_dict: StateDict, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The option under which the fused classifier would fit: added branches are half as wide as two."""
    given, expected = state_dict[_FUSED].shape, shapes[_FUSED]
    for fusion, ratio in (("sum", 1 / 2), ("concat", 2)):
        if len(given) == 4 and given[1] == ratio * expected[1]:
            return f" (the file's classifier is one for config.model.fusion={fusion!r})"
    return ""


def _get(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})"
