"""Pairs of image and label files, matched by name: what every builder starts from."""

import dataclasses
import os
from pathlib import Path

from dpanet_jax.data.classes import Classes

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
LABEL_SUFFIXES = (".png",)
SPLITS = ("train", "val", "test")
REQUIRED_SPLITS = ("train", "val")


class DataError(ValueError):
    """Something is wrong with the source of a data set; the message names the files."""

    def __init__(self, source: Path | str, problems: list[str], shown: int = 10):
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
    """One example: its name within the split, its image file and its label file."""

    name: str
    image: Path
    label: Path


@dataclasses.dataclass
class Listing:
    """The examples of every split, in the order they are stored, and what was wrong in matching."""

    classes: Classes
    classes_file: Path | None = None  # where a user says what the classes are, if a user does
    splits: dict[str, list[Pair]] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)


def files_by_name(folder: Path, suffixes: tuple[str, ...], problems: list[str]) -> dict[str, Path]:
    """Files below `folder` with one of `suffixes`, sorted, by relative name without the suffix.

    Hidden files are left out. Two files of one name are reported in `problems`.
    """
    found: dict[str, Path] = {}
    for directory, subdirectories, names in os.walk(folder, followlinks=True):
        subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
        for file_name in names:
            path = Path(directory, file_name)
            if file_name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                first, second = sorted((found[name], path))
                problems.append(f"{first} and {second}: two files of one name; keep one")
            found[name] = path
    return dict(sorted(found.items()))


def match(images: dict[str, Path], labels: dict[str, Path], problems: list[str]) -> list[Pair]:
    """Pairs images and labels of the same name; a lone one of either kind is a problem."""
    problems += [f"{images[name]}: image without a label" for name in images if name not in labels]
    problems += [f"{labels[name]}: label without an image" for name in labels if name not in images]
    return [Pair(name, images[name], labels[name]) for name in images if name in labels]
