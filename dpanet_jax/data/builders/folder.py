"""A user's own data set: a folder of images, label PNGs of the same names, and a classes file.

    DIR/classes.csv                                  name,red,green,blue and an optional id

and either a folder for each split

    DIR/images/train/**  DIR/images/val/**           NAME.png, NAME.jpg or NAME.jpeg
    DIR/labels/train/**  DIR/labels/val/**           NAME.png

or one folder with lists

    DIR/images/**  DIR/labels/**
    DIR/train.txt  DIR/val.txt                       one name a line, with or without its suffix

`test` is optional in both. A name is the path below the folder, without the suffix. With lists,
files that no list names are left out. Labels are 8-bit grey or palette PNGs of the image's size,
holding the ids of classes.csv; 255 is ignored, as is the id of a row named ignore.
`classes.read_classes` describes the classes file.
"""

from pathlib import Path

from dpanet_jax.data.builders.listing import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    REQUIRED_SPLITS,
    SPLITS,
    DataError,
    Listing,
    Pair,
    files_by_name,
    match,
)
from dpanet_jax.data.classes import read_classes


def list_folder(source: Path) -> Listing:
    """Matches images and labels of every split below `source`; problems are in the listing.

    Raises DataError when the classes file or the folders `images` and `labels` are not there.
    """
    problems = [
        f"{source / name}: no such folder" for name in ("images", "labels") if not (source / name).is_dir()
    ]
    try:
        classes = read_classes(source / "classes.csv")
    except (ValueError, FileNotFoundError) as error:
        problems.append(str(error))
    if problems:
        raise DataError(source, problems)

    listing = Listing(classes, source / "classes.csv")
    if any((source / f"{split}.txt").exists() for split in SPLITS):
        _from_lists(source, listing)
    else:
        _from_folders(source, listing)
    return listing


def _from_folders(source: Path, listing: Listing) -> None:
    for split in SPLITS:
        folders = source / "images" / split, source / "labels" / split
        absent = [folder for folder in folders if not folder.is_dir()]
        if len(absent) == 2 and split not in REQUIRED_SPLITS:
            continue
        if absent:
            listing.problems += [
                f"{folder}: no such folder, and no {source / split}.txt" for folder in absent
            ]
            continue
        images = files_by_name(folders[0], IMAGE_SUFFIXES, listing.problems)
        labels = files_by_name(folders[1], LABEL_SUFFIXES, listing.problems)
        if not images and not labels:
            listing.problems.append(f"{folders[0]}: no image in it, so the split is empty")
        listing.splits[split] = match(images, labels, listing.problems)


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
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: not readable as a list of names ({error})")
            continue
        pairs = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            name = _plain_name(line.strip(), images)
            if name in listed_in:
                problems.append(f"{where}: {name} is already in {listed_in[name]}")
                continue
            listed_in[name] = where
            if name not in images:
                problems.append(f"{where}: no image {source / 'images' / name}.(png|jpg|jpeg)")
            elif name not in labels:
                problems.append(f"{images[name]}: image without a label (named in {where})")
            else:
                pairs.append(Pair(name, images[name], labels[name]))
        if not any(line.strip() for line in lines):
            problems.append(f"{path}: no name in it, so the split is empty")
        listing.splits[split] = sorted(pairs, key=lambda pair: pair.name)


def _plain_name(text: str, images: dict[str, Path]) -> str:
    # A dot may belong to the name, so the suffix goes only where the name is not known as it is.
    path = Path(text)
    if text not in images and path.suffix.lower() in IMAGE_SUFFIXES:
        return path.with_suffix("").as_posix()
    return path.as_posix()
