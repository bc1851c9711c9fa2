"""Cityscapes as its authors publish it, and its 19 classes, which `streets` draws too.

    DIR/leftImg8bit_trainvaltest.zip  DIR/gtFine_trainvaltest.zip
    DIR/leftImg8bit_trainextra.zip    DIR/gtCoarse.zip                             (both may be absent)

or unpacked, in which case `leftImg8bit` and `gtFine` are in DIR:

    leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png
    gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png       or NAME_gtFine_labelTrainIds.png
    gtCoarse/train_extra/CITY/NAME_gtCoarse_labelIds.png

The labels of `test` are withheld: its files say of every pixel that it counts for nothing, and are not read.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dpanet_jax.data import published
from dpanet_jax.data.archives import File
from dpanet_jax.data.classes import IGNORE_LABEL, Classes
from dpanet_jax.data.listing import DataError, DataSet, Listing
from dpanet_jax.data.published import Download, Published, Wanted, ending

# Names, colours and raw ids as the Cityscapes authors publish them (cityscapesScripts, labels.py).
_TABLE = (
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12),
    ("fence", (190, 153, 153), 13),
    ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19),
    ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21),
    ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23),
    ("person", (220, 20, 60), 24),
    ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27),
    ("bus", (0, 60, 100), 28),
    ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32),
    ("bicycle", (119, 11, 32), 33),
)
CITYSCAPES = Classes.from_ids(
    names=[name for name, _, _ in _TABLE],
    colors=[color for _, color, _ in _TABLE],
    ids=[raw_id for _, _, raw_id in _TABLE],
    ignored_ids=range(34),
)

_PAGE = "https://www.cityscapes-dataset.com/downloads/"
_IMAGES = Download("leftImg8bit_trainvaltest.zip", _PAGE, ("leftImg8bit",))
_LABELS = Download("gtFine_trainvaltest.zip", _PAGE, ("gtFine",))
_EXTRA_IMAGES = Download("leftImg8bit_trainextra.zip", _PAGE, ("leftImg8bit",))
_EXTRA_LABELS = Download("gtCoarse.zip", _PAGE, ("gtCoarse",))
_COUNTS = {"train": 2975, "val": 500, "test": 1525}
_EXTRA, _EXTRA_COUNT = "train_extra", 19998


def _raw_of_train_ids() -> np.ndarray:
    table = np.full(256, IGNORE_LABEL, np.uint8)
    table[: len(CITYSCAPES)] = CITYSCAPES.raw_ids
    return table


def list_cityscapes(source: Path, options: Published | None = None) -> Listing:
    """Matches images and labels of every split; problems are in the listing.

    Raises DataError where one of the two downloads is not there, ArchiveError where one is cut short.
    """
    partial = bool(options and options.partial)
    images, labels = _IMAGES.files(source), _LABELS.files(source)
    absent = [download for download, found in ((_IMAGES, images), (_LABELS, labels)) if found is None]
    if images is None or labels is None:
        raise DataError(source, published.not_there(absent))
    # All in one form: ids of two meanings must not be mixed.
    has_raw_ids = any(name.endswith("_gtFine_labelIds.png") for name in labels)
    tail = "labelIds" if has_raw_ids else "labelTrainIds"
    listing = Listing(CITYSCAPES, label_table=None if has_raw_ids else _raw_of_train_ids())
    for split, count in _COUNTS.items():
        pictures = _wanted(images, split, "_leftImg8bit.png", "images", count, _IMAGES)
        ids = _wanted(labels, split, f"_gtFine_{tail}.png", f"labels ({tail})", count, _LABELS)
        if split == "test" and partial and not pictures.files:
            continue
        published.add_split(listing, split, pictures, None if split == "test" else ids, partial)
    _add_extra(listing, source, images, has_raw_ids, partial)
    published.require_apart(listing)
    return listing


def _add_extra(
    listing: Listing, source: Path, images: Mapping[str, File], has_raw_ids: bool, partial: bool
) -> None:
    unpacked = any(name.startswith(f"{_EXTRA}/") for name in images)
    extra = images if unpacked else _EXTRA_IMAGES.archived(source)
    if extra is None:
        return
    coarse = _EXTRA_LABELS.files(source)
    if coarse is None:
        listing.problems += published.not_there([_EXTRA_LABELS])
        return
    tail = "labelIds" if has_raw_ids else "labelTrainIds"
    pictures = _wanted(extra, _EXTRA, "_leftImg8bit.png", "images", _EXTRA_COUNT, _EXTRA_IMAGES)
    ids = _wanted(coarse, _EXTRA, f"_gtCoarse_{tail}.png", f"labels ({tail})", _EXTRA_COUNT, _EXTRA_LABELS)
    published.add_split(listing, _EXTRA, pictures, ids, partial)


def _wanted(
    files: Mapping[str, File], split: str, tail: str, kind: str, count: int, download: Download
) -> Wanted:
    return Wanted(f"{split} {kind}", count, ending(files, f"{split}/", tail), download)


DATASET = DataSet(list_cityscapes, classes=CITYSCAPES, options=Published)
