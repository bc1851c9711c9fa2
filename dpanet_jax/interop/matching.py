"""Which of a file's names is which of the model's: prefixes, other spellings, and what has no place."""

import collections
import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dpanet_jax.interop import spellings
from dpanet_jax.interop.advice import listed
from dpanet_jax.interop.errors import MisfitError, WeightsError
from dpanet_jax.interop.names import DANET_ATTENTION, IGNORED, PARTS, is_danet, name_table

StateDict = dict[str, np.ndarray]
Shape = tuple[int, ...]

# Fewer of the model's names under a prefix than this share, and it is no prefix.
_LEAST = 0.25
_WHOLE = f"{PARTS['backbone']}."


@dataclasses.dataclass(frozen=True)
class Matched:
    """A file's arrays by the model's names.

    weights: by published names, those of the model and any other below the same prefix. outside: what
    stands elsewhere in the file, by its own name. own: each name of `weights` → the file's. table: the
    model's names → paths in its variables. whole: whether the file is of a whole network. prefix: what was
    taken off. said: lines about what was left out.
    """

    weights: StateDict
    outside: StateDict
    own: dict[str, str]
    table: dict[str, tuple[str, ...]]
    whole: bool
    prefix: str
    said: list[str]


def match(
    state_dict: StateDict,
    variables: dict[str, Any],
    shapes: Mapping[tuple[str, ...], Shape],
    missing: Iterable[str],
    path: Any,
) -> Matched:
    """Finds the prefix and the spelling under which a file's names are the model's.

    shapes: of each leaf, in PyTorch's layout. missing: patterns of names in which file and model may differ.
    Raises WeightsError where the file has no name of the model, or has them under several prefixes.
    """
    counted = {name: value for name, value in state_dict.items() if not matches(name, spellings.COUNTS)}
    files_own = _without_wrappers(counted)
    file = {name: counted[theirs] for name, theirs in files_own.items()}
    named = name_table(variables)
    is_network = "backbone" not in variables["params"]
    spelled = [{name: name for name in named}] if is_network else spellings.backbone_spellings(variables)
    prefix, spelling = _place(file, spelled, tuple(missing), path)
    whole = is_network or prefix.endswith(_WHOLE)
    inner = "" if is_network or not whole else _WHOLE
    outer = prefix.removesuffix(inner)
    own = {}
    for name in file:
        if name.startswith(prefix):
            below = name.removeprefix(prefix)
            own[inner + spelling.get(below, below)] = name
        elif name.startswith(outer):
            own[name.removeprefix(outer)] = name
    said: list[str] = []
    left_out: set[str] = set()
    if not whole:
        outer, beside = _beside(prefix)
        project, heads = _heads(file, outer, named, variables, shapes) if beside else ("", {})
        if heads:
            whole = True
            own = {_WHOLE + name: theirs for name, theirs in own.items()} | heads
        others = file.keys() - set(own.values())
        left_out = {name for name in others if matches(name, (outer + pattern for pattern in beside))}
        said = _in_words(file, variables, prefix, outer, project, left_out)
    table = named if whole else name_table(variables, backbone_only=True)
    ignored = {name for name in own if matches(name, IGNORED) and name not in table}
    weights = {name: file[theirs] for name, theirs in own.items() if name not in ignored}
    if is_danet(weights):
        said.append("the position attention of a DANet, head.sa, was left out: SPA stands in its place")
        weights = {name: value for name, value in weights.items() if name not in DANET_ATTENTION}
        table = {name: key for name, key in table.items() if not name.startswith("head.sa.")}
    taken = set(own.values()) | left_out
    outside = {files_own[name]: value for name, value in file.items() if name not in taken}
    own = {name: files_own[theirs] for name, theirs in own.items()}
    return Matched(weights, outside, own, table, whole, outer if inner else prefix, said)


def _without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """{name: the file's}, without what PyTorch puts between two parts of it for a module that it wraps."""
    found: dict[str, str] = {}
    for name in names:
        bare = ".".join(part for part in name.split(".") if part not in spellings.WRAPPERS)
        # Two names that would become one are left as they are.
        found[name if bare in found or (bare != name and bare in names) else bare] = name
    return found


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns of fnmatch matches a name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _place(
    file: StateDict, spelled: list[dict[str, str]], missing: tuple[str, ...], path: Any
) -> tuple[str, dict[str, str]]:
    """The prefix and the spelling under which most of the file's names are the model's."""
    wanted = [name for name in file if not matches(name, missing)] or list(file)
    best: tuple[int, list[str], dict[str, str]] = (0, [""], spelled[0])
    for spelling in spelled:
        counts = collections.Counter(
            name[:i] for name in wanted for i in range(len(name)) if name[i:] in spelling
        )
        most = max(counts.values(), default=0)
        if most > best[0]:
            best = (most, [prefix for prefix, count in counts.items() if count == most], spelling)
    most, prefixes, spelling = best
    if not most and file and not any(matches(name, missing) for name in spelled[0]):
        theirs, ours = sorted(file), sorted(spelled[0])
        raise WeightsError(
            f"{path} does not fit the model: none of its {len(theirs)} names is the model's, with or "
            f"without a prefix before it; it has {listed(theirs[:3], 'names')}, …, and the model "
            f"{listed(ours[:3], 'names')}, …"
        )
    if most < _LEAST * min(len(spelling), len(wanted)) or "" in prefixes:
        return "", spelling
    if len(prefixes) > 1:
        first, *rest = prefixes
        raise MisfitError(
            f"{path}: holds the network several times, under the prefixes {', '.join(map(repr, prefixes))}; "
            f"to start from that under {first!r}, leave the others out: give",
            tuple(f"{_group(prefix, first)}*" for prefix in rest),
        )
    return prefixes[0], spelling


def _parts(name: str) -> list[str]:
    """'a.b.c' → ['', 'a.', 'a.b.']."""
    words = name.split(".")
    return ["".join(f"{word}." for word in words[:i]) for i in range(len(words))]


def _group(prefix: str, other: str) -> str:
    """The shortest part of a prefix that is not one of the other's: 'teacher.' of 'teacher.backbone.'."""
    return next((part for part in _parts(prefix)[1:] if not other.startswith(part)), prefix)


def _beside(prefix: str) -> tuple[str, tuple[str, ...]]:
    """A backbone's prefix → (that of the whole network, patterns of what is known to stand beside it)."""
    for name in sorted(spellings.BESIDE, key=len, reverse=True):
        outer = prefix.removesuffix(f"{name}.")
        if prefix.endswith(f"{name}.") and (not outer or outer.endswith(".")):
            return outer, spellings.BESIDE[name]
    return prefix, ()


def _heads(
    file: StateDict,
    outer: str,
    named: Mapping[str, tuple[str, ...]],
    variables: dict[str, Any],
    shapes: Mapping[tuple[str, ...], Shape],
) -> tuple[str, dict[str, str]]:
    """(project, {our name: the file's}) of an FCN's heads where they correspond; else ("", {})."""

    def of(part: str, top: str, project: spellings.Project) -> dict[str, str]:
        spelled = spellings.fcn_spelling(variables, named, part, project.fcn_head, outer + top)
        there = {name for name in file if name.startswith(f"{outer}{top}.")}
        if not spelled or spelled.keys() != there:
            return {}
        same = all(_fits(file[theirs].shape, shapes[named[ours]], ours) for theirs, ours in spelled.items())
        return {ours: theirs for theirs, ours in spelled.items()} if same else {}

    for project in spellings.PROJECTS:
        head = of("head", project.head, project)
        if head:
            return project.name, head | of("auxiliary_head", project.auxiliary_head, project)
    return "", {}


def _fits(given: Shape, expected: Shape, name: str) -> bool:
    """Whether a shape is that of the same module, but for the number of classes."""
    is_classifier = ".conv5.4." in name
    return given == expected or (is_classifier and given[1:] == expected[1:])


def _in_words(
    file: StateDict, variables: dict[str, Any], prefix: str, outer: str, project: str, left_out: set[str]
) -> list[str]:
    """Lines about what was left out of a file, and about what is computed otherwise than there."""
    said = []
    if left_out:
        what = f"the network of {project}" if project else f"the backbone, under {prefix!r},"
        tops = sorted({_top(name, outer) for name in left_out})
        said.append(f"{what} was taken; left out: {', '.join(tops)} ({len(left_out)} arrays)")
    block = variables["params"]["backbone"].get("layer1_0", {})
    is_mmseg = any(name.startswith(f"{outer}decode_head.") for name in file)
    if is_mmseg and "conv2" in block and "conv3" not in block:
        said.append(
            "mmsegmentation does not dilate the second convolution of ResNet-18's and 34's blocks, as this "
            "network does at an output stride of 8 or 16: there its results are others"
        )
    return said


def _top(name: str, outer: str) -> str:
    return outer + name.removeprefix(outer).partition(".")[0] + ".*"
