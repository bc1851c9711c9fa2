"""What a data set's source holds: pairs of image and label files, matched by name, and its classes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpanet_jax.data import images
from dpanet_jax.data.classes import Classes
from dpanet_jax.errors import DPANetError

SPLITS = ("train", "val", "test")
REQUIRED_SPLITS = ("train", "val")


class DataError(DPANetError, ValueError):
    """Something is wrong with a data set or its source; the message names the files, one a line."""

    def __init__(self, source: Path | str, problems: Sequence[str], shown: int = 10) -> None:
        self.problems = tuple(problems)
        if len(problems) == 1:
            super().__init__(f"{source}: {problems[0]}")
            return
        lines = [f"{source}: {len(problems)} problems"]
        lines += [f"  {problem}" for problem in problems[:shown]]
        if len(problems) > shown:
            lines.append(f"  and {len(problems) - shown} more")
        super().__init__("\n".join(lines))


@dataclasses.dataclass(frozen=True)
class Pair:
    """One example: its name within the split, its image file and its label file, if it has one."""

    name: str
    image: Path
    label: Path | None


@dataclasses.dataclass
class Listing:
    """The examples of every split, in the order they are stored, and what was wrong in matching.

    classes_file: where a user says what the classes are, if a user does.
    """

    classes: Classes
    classes_file: Path | None = None
    splits: dict[str, list[Pair]] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)

    def unlabelled(self) -> list[str]:
        """The splits whose examples have no labels."""
        return [
            split for split, pairs in self.splits.items() if pairs and all(p.label is None for p in pairs)
        ]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One kind of data set: how its source becomes a Listing, and what `prepare` must know to get there.

    list_source: the folder with the files → Listing; raises DataError where it is no such source.
    classes: the classes, where they are the same for every source; None: the source says.
    has_configs: whether NAME/CONFIG keeps several apart, because every user has others of their own.
    options: a dataclass of the options that `prepare` takes, see `dpanet_jax.options`.
    draw: (folder, options, quiet) → the files in that folder, for a data set that makes its own source.
    None: `prepare` must be given one.
    """

    list_source: Callable[[Path], Listing]
    classes: Classes | None = None
    has_configs: bool = False
    options: type | None = None
    draw: Callable[[Path, Any, bool], object] | None = None

    @property
    def needs_source(self) -> bool:
        """Whether `prepare` must be told where the files are."""
        return self.draw is None


def files_by_name(folder: Path, suffixes: Sequence[str], problems: list[str]) -> dict[str, Path]:
    """`images.files_below`; what is wrong goes to `problems`."""
    found, wrong = images.files_below(folder, suffixes)
    problems += wrong
    return found


def match(
    image_files: Mapping[str, Path],
    label_files: Mapping[str, Path],
    problems: list[str],
    may_lack_labels: bool = False,
) -> list[Pair]:
    """Pairs images and labels of the same name; a lone one of either kind is a problem.

    may_lack_labels: images alone are a split without labels, where there is no label at all.
    """
    if may_lack_labels and not label_files:
        return [Pair(name, path, None) for name, path in image_files.items()]
    problems += [
        f"{image_files[name]}: image without a label" for name in image_files if name not in label_files
    ]
    problems += [
        f"{label_files[name]}: label without an image" for name in label_files if name not in image_files
    ]
    return [Pair(name, image_files[name], label_files[name]) for name in image_files if name in label_files]


def list_folders(
    listing: Listing, folders: Mapping[str, tuple[Path, Path]], hint: Callable[[str], str] = lambda split: ""
) -> None:
    """Fills `listing` from a folder of images and one of labels for every split.

    folders: {split: (images, labels)}. `train` and `val` need both. Another split is left out where neither
    is there, and has no labels where its labels are not. hint: what is said after a missing folder's name.
    """
    for split, (image_folder, label_folder) in folders.items():
        optional = split not in REQUIRED_SPLITS
        absent = [folder for folder in (image_folder, label_folder) if not folder.is_dir()]
        if optional and len(absent) == 2:
            continue
        if absent and not (optional and absent == [label_folder]):
            listing.problems += [f"{folder}: no such folder{hint(split)}" for folder in absent]
            continue
        image_files = files_by_name(image_folder, images.IMAGE_SUFFIXES, listing.problems)
        label_files = {} if absent else files_by_name(label_folder, images.LABEL_SUFFIXES, listing.problems)
        if not image_files and not label_files:
            listing.problems.append(f"{image_folder}: no image in it, so the split is empty")
        listing.splits[split] = match(image_files, label_files, listing.problems, may_lack_labels=optional)
