"""What a data set's source holds: pairs of image and label files, matched by name, and its classes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpanet_jax.data import pairing
from dpanet_jax.data.archives import File
from dpanet_jax.data.classes import Classes
from dpanet_jax.data.labels import Color, Meaning
from dpanet_jax.data.pairing import Suffixes
from dpanet_jax.errors import DPANetError

SPLITS = ("train", "val", "test")
REQUIRED_SPLITS = ("train", "val")
# So many files with the same thing wrong are said in one line.
_ALIKE = 4


class DataError(DPANetError, ValueError):
    """Something is wrong with a data set or its source; the message names the files, one a line."""

    def __init__(self, source: object, problems: Sequence[str], shown: int = 10) -> None:
        self.problems = tuple(problems)
        if len(problems) == 1:
            super().__init__(f"{source}: {problems[0]}")
            return
        gathered = _gathered(problems)
        lines = [f"{source}: {len(problems)} problems"]
        lines += [f"  {text}" for text, _ in gathered[:shown]]
        if len(gathered) > shown:
            lines.append(f"  and {sum(count for _, count in gathered[shown:])} more")
        super().__init__("\n".join(lines))


def _gathered(problems: Sequence[str]) -> list[tuple[str, int]]:
    """(text, problems that it stands for): what is wrong with many files in the same words is said once."""
    by_words: dict[str, list[str]] = {}
    for problem in problems:
        by_words.setdefault(problem.partition(": ")[2], []).append(problem)
    gathered = []
    for words, alike in by_words.items():
        if words and len(alike) >= _ALIKE:
            first = alike[0].partition(": ")[0]
            gathered.append((f"{first} and {len(alike) - 1} more: {words}", len(alike)))
        else:
            gathered += [(problem, 1) for problem in alike]
    return gathered


@dataclasses.dataclass(frozen=True)
class Pair:
    """One example: its name within the split, its image file and its label file, if it has one."""

    name: str
    image: File
    label: File | None


@dataclasses.dataclass
class Listing:
    """The examples of every split, in the order they are stored, and what was wrong in matching.

    classes_file: where a user says what the classes are, if a user does. label_colors: {colour: the ids that
    have it} for labels that are pictures in colours; None: the classes' own; {}: a palette's indices are
    the ids, whatever its colours. label_table: (256,) uint8, what
    a train id in the label files is stored as, where they hold train ids and not ids.
    """

    classes: Classes
    classes_file: Path | None = None
    label_colors: Mapping[Color, Sequence[int]] | None = None
    label_table: np.ndarray | None = None
    splits: dict[str, list[Pair]] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)

    def meaning(self) -> Meaning:
        """What the pixels of the label files may be."""
        file_name = self.classes_file.name if self.classes_file else ""
        return Meaning.of(self.classes, self.label_colors, file_name, self.label_table)

    def unlabelled(self) -> list[str]:
        """The splits whose examples have no labels."""
        return [
            split for split, pairs in self.splits.items() if pairs and all(p.label is None for p in pairs)
        ]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One kind of data set: how its source becomes a Listing, and what `prepare` must know to get there.

    list_source: the folder with the files → Listing; raises DataError where it is no such source. It is
    handed the options too, where there are options and no `draw` that takes them.
    classes: the classes, where they are the same for every source; None: the source says.
    has_configs: whether NAME/CONFIG keeps several apart, because every user has others of their own.
    options: a dataclass of the options that `prepare` takes, see `dpanet_jax.options`.
    draw: (folder, options, quiet) → the files in that folder, for a data set that makes its own source.
    None: `prepare` must be given one.
    """

    list_source: Callable[..., Listing]
    classes: Classes | None = None
    has_configs: bool = False
    options: type | None = None
    draw: Callable[[Path, Any, bool], object] | None = None

    @property
    def needs_source(self) -> bool:
        """Whether `prepare` must be told where the files are."""
        return self.draw is None


def list_folders(
    listing: Listing,
    folders: Mapping[str, tuple[Path, Path]],
    hint: Callable[[str], str] = lambda split: "",
    suffixes: Suffixes | None = None,
) -> None:
    """Fills `listing` from a folder of images and one of labels for every split.

    folders: {split: (images, labels)}; both may be the same folder, where the labels have a suffix. `train`
    and `val` need both. Another split is left out where neither is there, and has no labels where its labels
    are not. hint: what is said after a missing folder's name.
    """
    suffixes = suffixes or Suffixes()
    for split, (image_folder, label_folder) in folders.items():
        optional = split not in REQUIRED_SPLITS
        absent = [folder for folder in (image_folder, label_folder) if not folder.is_dir()]
        if optional and len(absent) == 2:
            continue
        if absent and not (optional and absent == [label_folder]):
            listing.problems += [
                f"{folder}: no such folder{other_name(folder)}{hint(split)}"
                for folder in dict.fromkeys(absent)
            ]
            continue
        image_files = pairing.find_images(image_folder, suffixes, listing.problems)
        label_files = None if absent else pairing.find_labels(label_folder, suffixes, listing.problems)
        if not image_files.files and not image_files.unread and not (label_files and label_files.files):
            listing.problems.append(f"{image_folder}: no image in it, so the split is empty")
        matched = pairing.match(image_files, label_files, listing.problems, may_lack_labels=optional)
        listing.splits[split] = [Pair(*names) for names in matched]


# What others call a split, in small letters.
_OTHER_NAMES = {"train": ("training",), "val": ("valid", "validation", "dev"), "test": ("testing",)}


def other_name(path: Path) -> str:
    """What is said of a split's folder or list that is there under another name, or in capitals."""
    for other in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
        alike = (path.stem, *_OTHER_NAMES.get(path.stem, ()))
        if other.suffix == path.suffix and other.stem.lower() in alike and other != path:
            return f", but {other} is there: rename it to {path.name}"
    return ""
