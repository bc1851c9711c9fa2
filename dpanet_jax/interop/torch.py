"""Weights with PyTorch's names, into a Segmenter and out of it.

Each name stands in an explicit table (`names`, `spellings`), made from the model's own variables; every key
of a file (`files`) is accounted for.
"""

import fnmatch
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dpanet_jax import progress
from dpanet_jax.interop import files
from dpanet_jax.interop.advice import (
    FUSED,
    Shapes,
    backbone_hint,
    classes_of,
    fusion_hint,
    listed,
    missing_flag,
    patterns_of,
)
from dpanet_jax.interop.errors import MisfitError, OtherClassesError, WeightsError
from dpanet_jax.interop.files import Source, read_state_dict
from dpanet_jax.interop.matching import Matched, match, matches
from dpanet_jax.interop.names import PARTS, name_table

StateDict = dict[str, np.ndarray]


def load(
    path: Source, variables: dict[str, Any], missing: tuple[str, ...] = (), *, whole: bool = False
) -> dict[str, Any]:
    """`variables` of a Segmenter with the weights of a file in their place.

    `path` is what `files.read_state_dict` takes: a .safetensors file, one of PyTorch's, or
    hf://OWNER/NAME[/FILE]. A file whose names begin with `pretrained.` is of a whole network
    (PyTorch-Encoding's FCN, DANet, or ours) and replaces everything, as does an FCN of torchvision or
    mmsegmentation in a model with the same heads; any other is of a backbone (torchvision, PyTorch-Encoding's
    ResNet-s, ResNeSt, timm, mmpretrain, transformers, or the backbone of a network with other heads) and
    leaves the heads as they are. A network that is registered as a whole is replaced as a whole. One prefix
    before every name, such as `module.` or `model.backbone.`, is taken off. Values are cast to the model's
    dtype. What is left out is printed.

    A name that is missing, unexpected or mis-shaped is a WeightsError that lists them all, but for those
    that `missing`, patterns of fnmatch, names: what the model has of these keeps its value where the file
    lacks it or holds it in another shape, and what the file alone has is left out. So
    ("head.conv[678].*", "auxlayer.conv5.4.*") takes a checkpoint to another number of classes, and
    ("head.*",) to another head. A pattern that matches no name on either side is an error too.

    With `whole`, a file that gives a backbone alone is an error.

    Of a DANet the position attention, `head.sa`, is left out: SPA, which stands in its place, keeps its
    values. Its channel attention is CPA with affinity "subtract", and its branches are added: fusion "sum".
    """
    state_dict, said = files.read(path)
    matched = matched_to(state_dict, variables, missing, path)
    if whole and not matched.whole:
        without = "".join(f"; {line}" for line in matched.said)
        raise WeightsError(
            f"{path}: holds the backbone alone of the network that config.model describes{without}. To train "
            f"a network that starts from it, give it as --config.model.pretrained={path}"
        )
    for line in (*said, *matched.said):
        progress.message(f"{path}: {line}")
    return fit(state_dict, variables, missing, path)


def read(path: Source) -> StateDict:
    """A file's {name: array}, by its own names. Raises WeightsError."""
    return read_state_dict(path)


def fit(
    state_dict: StateDict,
    variables: dict[str, Any],
    missing: tuple[str, ...] = (),
    path: Source = "the state dict",
) -> dict[str, Any]:
    """`load`, of a state dict that was read before; `path` is what errors call it."""
    matched = matched_to(state_dict, variables, missing, path)
    leaves = {}
    for name, value in matched.weights.items():
        key = matched.table.get(name)
        old = None if key is None else _get(variables, key)
        if key is not None and old is not None and value.shape == torch_shape(old.shape):
            leaves[key] = from_torch(value, old.shape).astype(old.dtype)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(tuple(entry.key for entry in path), leaf), variables
    )


def matched_to(
    state_dict: StateDict,
    variables: dict[str, Any],
    missing: tuple[str, ...] = (),
    path: Source = "the state dict",
) -> Matched:
    """A file's arrays by the model's names. Raises WeightsError where they do not fit; see `load`."""
    shapes = {key: torch_shape(_get(variables, key).shape) for key in name_table(variables).values()}
    try:
        matched = match(state_dict, variables, shapes, missing, path)
    except MisfitError as error:
        # One flag for everything: also for what does not fit once the other networks are left out.
        patterns = (*missing, *error.patterns)
        try:
            matched_to(state_dict, variables, patterns, path)
        except MisfitError as further:
            patterns = further.patterns or patterns
        raise MisfitError(f"{error} {missing_flag(patterns)}", patterns) from error
    expected = {name: shapes[key] for name, key in matched.table.items()}
    given = {name: value.shape for name, value in matched.weights.items()}
    names = expected.keys() | given.keys()
    own = {name: (name, matched.own.get(name, name)) for name in names}
    for pattern in missing:
        if not fnmatch.filter({*names, *state_dict}, pattern):
            raise WeightsError(
                f"config.model.pretrained_missing: {pattern!r} matches no name of the model or of {path}"
            )
    allowed = {name for name in names if any(matches(other, missing) for other in own[name])}
    outside = {name for name in matched.outside if not matches(name, missing)}
    wrong = {name for name in names if name in expected and name in given and given[name] != expected[name]}
    problems = {
        "missing": sorted(expected.keys() - given.keys() - allowed),
        "unexpected": sorted((given.keys() - expected.keys() - allowed) | outside),
        "mis-shaped": sorted(wrong - allowed),
    }
    if any(problems.values()):
        raise _misfit(path, problems, matched, given, expected, (missing, set(state_dict)))
    whole_numbers = [name for name in sorted(expected.keys() & given.keys()) if _is_whole(matched, name)]
    if whole_numbers:
        raise WeightsError(
            f"{path}: holds whole numbers as weights: {listed(whole_numbers)}; weights that were quantized "
            "cannot be read, those that they were made from can"
        )
    sound = {
        name: np.isfinite(matched.weights[name]).all() for name in expected.keys() & given.keys() - wrong
    }
    if not all(sound.values()):
        odd = sorted(name for name in sound if not sound[name])
        raise WeightsError(
            f"{path}: holds NaN or infinite numbers: {listed(odd)}; the training that wrote it had failed, "
            "or the file is damaged"
        )
    return matched


def _is_whole(matched: Matched, name: str) -> bool:
    return matched.weights[name].dtype.kind in "iub"


def _misfit(
    path: Source,
    problems: Mapping[str, list[str]],
    matched: Matched,
    given: Shapes,
    expected: Shapes,
    request: tuple[tuple[str, ...], set[str]],
) -> MisfitError:
    """The error that says what does not fit, and what to do; `request`: patterns so far, the file's names."""
    wrong = problems["mis-shaped"]
    shown = {
        **problems,
        "mis-shaped": [f"{name} {given[name]} instead of {expected[name]}" for name in wrong],
    }
    words = "; ".join(f"{kind} {listed(names)}" for kind, names in shown.items() if names)
    if matched.prefix:
        words += f" (the file's names without their prefix {matched.prefix!r})"
    if FUSED in wrong:
        words += fusion_hint(given[FUSED], expected[FUSED])
    words = f"{path} does not fit the model: {words}{backbone_hint(given, expected)}"
    odd = [name for names in problems.values() for name in names]
    missing, names = request
    others = (expected.keys() | given.keys() | names) - {matched.own.get(name, name) for name in odd}
    patterns = (*missing, *patterns_of(odd, others))
    flag = missing_flag(patterns)
    classes = classes_of({name: given[name] for name in wrong}, {name: expected[name] for name in wrong})
    if classes and len(odd) == len(wrong):
        words += f"; the file is for {classes[0]} classes and the model for {classes[1]}"
        words += f": to take all but the classifiers, give {flag}"
        return OtherClassesError(words, patterns, *classes)
    if any(_is_of_backbone(name, matched) for name in odd):
        return MisfitError(words)
    auxiliary = f"{PARTS['auxiliary_head']}."
    if problems["missing"] == odd and all(name.startswith(auxiliary) for name in odd):
        words += "; the file has no auxiliary head: give --config.model.auxiliary=False"
        return MisfitError(f"{words}, or, to train one from a random start, {flag}", patterns)
    return MisfitError(f"{words}; to take what fits, and leave these as they are, give {flag}", patterns)


def _is_of_backbone(name: str, matched: Matched) -> bool:
    if name in matched.outside:
        return False
    start = f"{PARTS['backbone']}." if matched.whole else ""
    tops = {other.removeprefix(start).partition(".")[0] for other in matched.table if other.startswith(start)}
    return name.startswith(start) and name.removeprefix(start).partition(".")[0] in tops


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


def _get(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree
