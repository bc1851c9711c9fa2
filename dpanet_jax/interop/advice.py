"""What to do where a file's weights do not fit the model: the option that helps, and its value."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from dpanet_jax.models.backbones.resnet import ARCHITECTURES

# The classifier of the joined branches.
FUSED = "head.conv8.1.weight"
_SHOWN = 10


Shapes = Mapping[str, tuple[int, ...]]


def listed(names: Collection[str], what: str = "") -> str:
    """'2 (a, b)', the first ten by name; with `what`, the names alone."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    words = f"{', '.join(printable(name) for name in names[:_SHOWN])}{more}"
    return words if what else f"{len(names)} ({words})"


def printable(name: str) -> str:
    """A name as it may stand in a line."""
    return name if name.isprintable() else repr(name)


def missing_flag(patterns: Iterable[str]) -> str:
    """The flag that lets file and model differ in these names, as one types it."""
    return f'--config.model.pretrained_missing="{tuple(patterns)!r}"'


def patterns_of(names: Collection[str], everything: Collection[str]) -> list[str]:
    """The fewest patterns that match these names and no other of `everything`: 'auxlayer.*'."""
    patterns = set()
    others = set(everything) - set(names)
    for name in names:
        words = name.split(".")
        starts = ["".join(f"{word}." for word in words[:i]) for i in range(1, len(words))]
        free = (start for start in starts if not any(other.startswith(start) for other in others))
        start = next(free, None)
        patterns.add(name if start is None else f"{start}*")
    return sorted(patterns)


def classes_of(given: Shapes, expected: Shapes) -> tuple[int, int] | None:
    """(the file's number of classes, the model's) where mis-shaped arrays differ in no more; else None."""
    pairs = {(given[name][:1], expected[name][:1]) for name in given}
    same = all(given[name][1:] == expected[name][1:] for name in given)
    if len(pairs) != 1 or not same:
        return None
    theirs, ours = pairs.pop()
    return (theirs[0], ours[0]) if theirs and ours else None


def fusion_hint(given: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """The option under which the fused classifier would fit: added branches are half as wide as two."""
    for fusion, ratio in (("sum", 1 / 2), ("concat", 2)):
        if len(given) == 4 and given[1] == ratio * expected[1]:
            return f" (the file's classifier is one for config.model.fusion={fusion!r})"
    return ""


def backbone_hint(given: Shapes, expected: Shapes) -> str:
    """Which backbone a file's names and shapes are of, where it is another than the model's; else ''."""
    theirs, ours = _backbone(given), _backbone(expected)
    if not theirs or not ours or theirs == ours:
        return ""
    if "downsample" in theirs:
        return " (the file's shortcuts are pooled, as ResNet-D's and V1d's: no backbone here is such a one)"
    wanted = [f"config.model.{key}={value}" for key, value in theirs.items() if ours.get(key) != value]
    return f" (the file's backbone is one for {', '.join(wanted)})" if wanted else ""


def _backbone(shapes: Shapes) -> dict[str, Any]:
    """The options of config.model that make a ResNet or ResNeSt of these shapes; {} where it is none."""
    first = "layer1.0.conv1.weight"
    root = next((name.removesuffix(first) for name in shapes if f".{name}".endswith(f".{first}")), "")
    found = [re.fullmatch(r"layer([1-4])\.(\d+)\.conv1\.weight", name.removeprefix(root)) for name in shapes]
    blocks = {(int(m[1]), int(m[2])) for m in found if m}
    depths = tuple(sum(stage == s for s, _ in blocks) for stage in (1, 2, 3, 4))

    def shape(name: str) -> tuple[int, ...]:
        return shapes.get(root + name, ())

    is_split = bool(shape("layer1.0.conv2.conv.weight"))
    kind = "Bottleneck" if shape("layer1.0.conv3.weight") else "BasicBlock"
    width = shape(first)[:1]
    if not width:
        return {}
    options: dict[str, Any] = {}
    if is_split:
        names: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "resnest50", (3, 4, 23, 3): "resnest101"}
        options["backbone"] = names.get(depths)
    else:
        known: dict[tuple[str, tuple[int, ...]], str]
        known = {(cls.__name__, depth): name for name, (cls, depth) in ARCHITECTURES.items()}
        options["backbone"] = known.get((kind, depths))
        last = shape("conv1.6.weight") or shape("stem.6.weight")
        plain = len(shape("conv1.weight")) == 4
        options["stem"] = "plain" if plain else {(2 * width[0],): "deep", width: "v1c"}.get(last[:1])
        if len(shape("layer2.0.downsample.1.weight")) == 4:
            options["downsample"] = "average"
    options["width"] = width[0]
    return options if None not in options.values() else {}
