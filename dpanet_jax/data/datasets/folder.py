"""A user's own data set: a folder of images, label PNGs of the same names, and a classes file.

    DIR/classes.csv                                  name,red,green,blue and an optional id

and either a folder for each split

    DIR/images/train/**  DIR/images/val/**           NAME.png, NAME.jpg or NAME.jpeg
    DIR/labels/train/**  DIR/labels/val/**           NAME.png

or one folder with lists

    DIR/images/**  DIR/labels/**
    DIR/train.txt  DIR/val.txt                       one name a line, with or without its suffix

`test` is optional in both, and may have images alone: all of them have a label, or none. A name is the
path below the folder, without the suffix. With lists, files that no list names are left out. Labels are
8-bit grey or palette PNGs of the image's size, holding the ids of classes.csv. 255 is ignored, and so is
the id of a row named ignore. `classes.read_classes` describes the classes file.
"""

from collections.abc import Mapping
from pathlib import Path

from dpanet_jax.data.classes import ClassesError, read_classes
from dpanet_jax.data.images import IMAGE_SUFFIXES, LABEL_SUFFIXES
from dpanet_jax.data.listing import (
    REQUIRED_SPLITS,
    SPLITS,
    DataError,
    DataSet,
    Listing,
    Pair,
    files_by_name,
    list_folders,
)


def list_folder(source: Path) -> Listing:
    """Matches images and labels of every split below `source`; problems are in the listing.

    Raises DataError when the classes file or the folders `images` and `labels` are not there.
    """
    problems = [
        f"{source / name}: no such folder" for name in ("images", "labels") if not (source / name).is_dir()
    ]
    try:
        classes = read_classes(source / "classes.csv")
    except ClassesError as error:
        problems.append(str(error))
    if problems:
        raise DataError(source, problems)

    listing = Listing(classes, source / "classes.csv")
    if any((source / f"{split}.txt").exists() for split in SPLITS):
        _from_lists(source, listing)
    else:
        list_folders(
            listing,
            {split: (source / "images" / split, source / "labels" / split) for split in SPLITS},
            hint=lambda split: f", and no {source / split}.txt",
        )
    return listing


def _from_lists(source: Path, listing: Listing) -> None:
    problems = listing.problems
    images = files_by_name(source / "images", IMAGE_SUFFIXES, problems)
    labels = files_by_name(source / "labels", LABEL_SUFFIXES, problems)
    listed_in: dict[str, str] = {}
    for split in SPLITS:
        path = source / f"{split}.txt"
        if not path.exists():
            if split in REQUIRED_SPLITS:
                problems.append(f"{path}: no such file, while another split has a list")
            continue
        names = _read_list(path, source, images, listed_in, problems)
        if names is None:
            continue
        labelled = split in REQUIRED_SPLITS or any(name in labels for name in names)
        for name, where in names.items():
            if labelled and name not in labels:
                problems.append(f"{images[name]}: image without a label (named in {where})")
        listing.splits[split] = [
            Pair(name, images[name], labels[name] if labelled else None)
            for name in sorted(names)
            if name in labels or not labelled
        ]


def _read_list(
    path: Path, source: Path, images: Mapping[str, Path], listed_in: dict[str, str], problems: list[str]
) -> dict[str, str] | None:
    """{name: where it is listed} of the images that a split's list names; None for an unreadable list.

    `listed_in` gathers the names of all lists.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not readable as a list of names ({error})")
        return None
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name = _plain_name(line.strip(), images)
        if name in listed_in:
            problems.append(f"{where}: {name} is already in {listed_in[name]}")
            continue
        listed_in[name] = where
        if name in images:
            names[name] = where
        else:
            kinds = "|".join(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES)
            problems.append(f"{where}: no image {source / 'images' / name}.({kinds})")
    if not any(line.strip() for line in lines):
        problems.append(f"{path}: no name in it, so the split is empty")
    return names


def _plain_name(text: str, images: Mapping[str, Path]) -> str:
    # A dot may belong to the name, so the suffix goes only where the name is not known as it is.
    path = Path(text)
    if text not in images and path.suffix.lower() in IMAGE_SUFFIXES:
        return path.with_suffix("").as_posix()
    return path.as_posix()


DATASET = DataSet(list_folder, has_configs=True)
