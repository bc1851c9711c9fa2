"""Which label belongs to which image: by name, and what is said where names do not match."""

import collections
import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from dpanet_jax.data import finder
from dpanet_jax.options import Option

# Where a name's tail may begin.
_TAIL = re.compile(r"[_\-. ]")


@dataclasses.dataclass(frozen=True)
class Suffixes:
    """What image and label names end in, before the file's own suffix, that is no part of the pair's name."""

    image_suffix: Annotated[str, Option("what image names end in and label names do not: _leftImg8bit")] = ""
    label_suffix: Annotated[
        str, Option("what label names end in and image names do not: _mask, _gtFine_labelIds")
    ] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            # As it is written with the file's own suffix: _mask.png.
            stem = re.sub(
                r"\.(png|jpe?g|bmp|tiff?|webp)$", "", getattr(self, field.name), flags=re.IGNORECASE
            )
            object.__setattr__(self, field.name, finder.normal(stem))


@dataclasses.dataclass
class Found:
    """The files of one folder, by name. unread: pictures of kinds that are not read. others: the rest."""

    files: dict[str, Path] = dataclasses.field(default_factory=dict)
    unread: dict[str, Path] = dataclasses.field(default_factory=dict)
    others: dict[str, Path] = dataclasses.field(default_factory=dict)


def find_images(folder: Path, suffixes: Suffixes, problems: list[str]) -> Found:
    """The images below `folder`, without labels that lie beside them; what is wrong goes to `problems`."""
    found = _find(folder, finder.IMAGE_SUFFIXES, suffixes.image_suffix, problems)
    if suffixes.label_suffix:
        beside = [name for name in found.files if name.endswith(suffixes.label_suffix)]
        for name in beside:
            if name.removesuffix(suffixes.label_suffix) in found.files:
                del found.files[name]
    return found


def find_labels(folder: Path, suffixes: Suffixes, problems: list[str]) -> Found:
    """The label files below `folder`; what is wrong goes to `problems`."""
    return _find(folder, finder.LABEL_SUFFIXES, suffixes.label_suffix, problems)


def _find(folder: Path, file_suffixes: Collection[str], tail: str, problems: list[str]) -> Found:
    found = Found()
    without_tail = 0
    for path in finder.walk(folder):
        whole = finder.normal(path.relative_to(folder).with_suffix("").as_posix())
        name, suffix = whole.removesuffix(tail), path.suffix.lower()
        if suffix not in file_suffixes:
            (found.unread if suffix in finder.UNREAD_SUFFIXES else found.others)[name] = path
        elif not whole.endswith(tail):
            without_tail += 1
        elif name in found.files:
            problems.append(f"{found.files[name]} and {path}: two files of one name; rename or remove one")
        else:
            found.files[name] = path
    if without_tail and not found.files:
        problems.append(f"{folder}: no name of the {without_tail} files in it ends in {tail}")
    found.files = dict(sorted(found.files.items()))
    return found


def match(
    images: Found, labels: Found | None, problems: list[str], may_lack_labels: bool = False
) -> list[tuple[str, Path, Path | None]]:
    """(name, image, label) of every pair of one name, in order; a lone one of either kind is a problem.

    may_lack_labels: images alone are a split without labels, where there is no label at all.
    """
    problems += [f"{path}: {finder.says_kind(path)}" for path in images.unread.values()]
    labels = labels or Found()
    if may_lack_labels and not labels.files and not (labels.others.keys() & images.files.keys()):
        return [(name, path, None) for name, path in images.files.items()]
    lone_images = [name for name in images.files if name not in labels.files]
    lone_labels = [name for name in labels.files if name not in images.files]
    problems += explain(images, labels, lone_images, lone_labels)
    return [(name, path, labels.files[name]) for name, path in images.files.items() if name in labels.files]


def explain(
    images: Found,
    labels: Found,
    lone_images: Sequence[str],
    lone_labels: Sequence[str],
    listed_in: Mapping[str, str] | None = None,
) -> list[str]:
    """One text for each lone image or label; one for all that a pattern in their names explains.

    listed_in: where a list names an image.
    """
    listed_in = listed_in or {}
    said = []
    pattern, explained = _pattern(lone_images, lone_labels)
    if pattern:
        said.append(pattern)
    for name in lone_images:
        other = labels.others.get(name) or labels.unread.get(name)
        if name in explained:
            continue
        if other is not None:
            said.append(f"{other}: {_no_label(other)}")
        else:
            by = f" (named in {listed_in[name]})" if name in listed_in else ""
            alike = _but_for_case(name, lone_labels)
            said.append(f"{images.files[name]}: image without a label{by}{alike}")
    for name in lone_labels:
        # Where lists say what counts, other labels are left out.
        if name in explained or name in images.unread or listed_in:
            continue
        other = images.others.get(name)
        kind = f"; {other} is no image" if other else _but_for_case(name, lone_images)
        said.append(f"{labels.files[name]}: label without an image{kind}")
    return said


def _no_label(path: Path) -> str:
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        return (
            "a label must be PNG, BMP or TIFF, which keep every pixel as it was; JPEG and WebP change ids: "
            "write it again from where it was drawn"
        )
    if path.suffix.lower() in (".json", ".xml", ".txt", ".csv"):
        return "outlines or text, where a label is a picture (PNG, BMP or TIFF) with the class of every pixel"
    return "a label must be a picture: PNG, BMP or TIFF"


def _but_for_case(name: str, others: Sequence[str]) -> str:
    near = [other for other in others if other.casefold() == name.casefold()]
    return f"; {near[0]} differs in capitals alone" if near else ""


def _pattern(images: Sequence[str], labels: Sequence[str]) -> tuple[str, set[str]]:
    """What the names of lone images and labels have in common, and the names that this explains."""
    pairs = {
        (image_tail, label_tail): _count(images, labels, image_tail, label_tail)
        for image_tail in _tails(images)
        for label_tail in _tails(labels)
    }
    best = max(pairs, key=lambda pair: (pairs[pair], -len(pair[0] + pair[1])), default=("", ""))
    if best != ("", "") and 2 * pairs[best] > len(images):
        image_tail, label_tail = best
        names = {name.removesuffix(image_tail) for name in images if name.endswith(image_tail)}
        names &= {name.removesuffix(label_tail) for name in labels if name.endswith(label_tail)}
        explained = {name + image_tail for name in names} | {name + label_tail for name in names}
        options = [f"--image_suffix={image_tail}"] * bool(image_tail)
        options += [f"--label_suffix={label_tail}"] * bool(label_tail)
        ends = [f"images end in {image_tail}"] * bool(image_tail)
        ends += [f"labels end in {label_tail}"] * bool(label_tail)
        # Kept out of the list too: what lies beside the labels under other endings.
        explained |= {name for name in labels for stem in names if name.startswith(stem)}
        first = min(names)
        return (
            f"{' and '.join(ends)}, in {len(names)} of {len(images)} (such as {first}{image_tail} and "
            f"{first}{label_tail}): give {' '.join(options)}",
            explained,
        )
    return "", set()


def _count(images: Sequence[str], labels: Sequence[str], image_tail: str, label_tail: str) -> int:
    stems = {name.removesuffix(image_tail) for name in images if name.endswith(image_tail)}
    return len(stems & {name.removesuffix(label_tail) for name in labels if name.endswith(label_tail)})


def _tails(names: Sequence[str]) -> list[str]:
    """The ends of names, from a separator on, that many names share; the empty one too."""
    counts: collections.Counter[str] = collections.Counter()
    for name in names:
        last = name.rpartition("/")[2]
        counts.update({last[found.start() :] for found in _TAIL.finditer(last) if found.start()})
    common = [tail for tail, count in counts.most_common(12) if 5 * count >= len(names)]
    return ["", *common]


def labels_beside(names: Collection[str]) -> str:
    """The ending of labels that lie among the images of these names, or an empty text."""
    counts = {
        tail: sum(name.endswith(tail) and name.removesuffix(tail) in names for name in names)
        for tail in _tails(list(names))
        if tail
    }
    best = max(counts, key=lambda tail: (counts[tail], -len(tail)), default="")
    return best if best and 3 * counts[best] >= len(names) else ""
