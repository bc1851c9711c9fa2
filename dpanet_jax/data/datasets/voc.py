"""PASCAL VOC 2012 as its authors publish it, with the augmented masks where they are there; 21 classes.

    DIR/VOCtrainval_11-May-2012.tar  DIR/VOC2012test.tar           (the second may be absent)
    DIR/SegmentationClassAug.zip     DIR/train_aug.txt             (both or neither)

or unpacked: VOCdevkit/ in DIR, or DIR itself:

    VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt  val.txt    test.txt of the archive of test
    VOCdevkit/VOC2012/JPEGImages/NAME.jpg
    VOCdevkit/VOC2012/SegmentationClass/NAME.png                   a palette's indices are the ids
    VOCdevkit/VOC2012/SegmentationClassAug/NAME.png                or DIR/SegmentationClassAug/NAME.png

The augmented masks were made of the Semantic Boundaries Dataset. Their list, train_aug.txt or trainaug.txt,
lies in DIR or with the other lists. A line of a list is a name, or /JPEGImages/NAME.jpg and the mask's path.
With them `train` has 10,582 images, without them 1,464. `val` always has the authors' own labels.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from dpanet_jax.data import published
from dpanet_jax.data.archives import File
from dpanet_jax.data.classes import Classes
from dpanet_jax.data.listing import DataError, DataSet, Listing
from dpanet_jax.data.published import Download, Published, Wanted, ending

# Names and colours as the development kit has them (VOCinit.m, VOClabelcolormap.m).
_TABLE = (
    ("background", (0, 0, 0)),
    ("aeroplane", (128, 0, 0)),
    ("bicycle", (0, 128, 0)),
    ("bird", (128, 128, 0)),
    ("boat", (0, 0, 128)),
    ("bottle", (128, 0, 128)),
    ("bus", (0, 128, 128)),
    ("car", (128, 128, 128)),
    ("cat", (64, 0, 0)),
    ("chair", (192, 0, 0)),
    ("cow", (64, 128, 0)),
    ("diningtable", (192, 128, 0)),
    ("dog", (64, 0, 128)),
    ("horse", (192, 0, 128)),
    ("motorbike", (64, 128, 128)),
    ("person", (192, 128, 128)),
    ("pottedplant", (0, 64, 0)),
    ("sheep", (128, 64, 0)),
    ("sofa", (0, 192, 0)),
    ("train", (128, 192, 0)),
    ("tvmonitor", (0, 64, 128)),
)
VOC = Classes.from_ids(names=[name for name, _ in _TABLE], colors=[color for _, color in _TABLE])

_LISTS = "ImageSets/Segmentation/"
_FOLDERS = ("VOCdevkit/VOC2012", "VOC2012", ".")
_TRAINVAL = Download(
    "VOCtrainval_11-May-2012.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    _FOLDERS,
    holds=_LISTS + "train.txt",
)
_TEST = Download("VOC2012test.tar", "http://host.robots.ox.ac.uk:8080/", _FOLDERS, holds=_LISTS + "test.txt")
_MASKS_PAGE = "https://github.com/DrSleep/tensorflow-deeplab-resnet"
_MASKS = Download("SegmentationClassAug.zip", _MASKS_PAGE, ("SegmentationClassAug",))
_MASK_LIST_NAMES = ("train_aug.txt", "trainaug.txt")
_MASK_LIST = Download(_MASK_LIST_NAMES[0], _MASKS_PAGE, ())
_COUNTS = {"train": 1464, "augmented": 10582, "val": 1449, "test": 1456}


@dataclasses.dataclass(frozen=True)
class _Part:
    """One split: the list of its names, how many they are as published, and where their files are."""

    names_of: File
    names: list[str]
    count: int
    images: Mapping[str, File]
    labels: Mapping[str, File] | None
    downloads: tuple[Download, Download, Download]  # of the list, the images and the labels


def list_voc(source: Path, options: Published | None = None) -> Listing:
    """Matches images and labels of every split; problems are in the listing.

    Raises DataError where the download is not there, a list is none, or two of them share names;
    ArchiveError where an archive is cut short.
    """
    partial = bool(options and options.partial)
    files = _TRAINVAL.files(source)
    if files is None:
        raise DataError(source, published.not_there([_TRAINVAL]))
    own = ending(files, "SegmentationClass/", ".png")
    parts = {"train": _train(source, files, own), "val": _part(source, files, "val", _TRAINVAL, own)}
    held_out = _TEST.files(source)
    if held_out is not None:
        parts["test"] = _part(source, held_out, "test", _TEST, None)
    if shared := published.shared({f"{key} ({part.names_of})": part.names for key, part in parts.items()}):
        raise DataError(source, shared)
    # A palette's colours say nothing: its indices are the ids.
    listing = Listing(VOC, label_colors={})
    for split, part in parts.items():
        _add(listing, split, part, partial)
    return listing


def _part(
    source: Path, files: Mapping[str, File], split: str, download: Download, labels: Mapping[str, File] | None
) -> _Part:
    """A split as VOC's authors publish it."""
    path = f"{_LISTS}{split}.txt"
    if path not in files:
        raise DataError(source, [f"no {path} is there; {download.words} has it"])
    images = ending(files, "JPEGImages/", ".jpg")
    names = _names(source, files[path])
    return _Part(files[path], names, _COUNTS[split], images, labels, (download, download, download))


def _train(source: Path, files: Mapping[str, File], own: Mapping[str, File]) -> _Part:
    """The split train, with the augmented masks where they are there.

    Raises DataError where their list is there without them, or they without it.
    """
    masks = ending(files, "SegmentationClassAug/", ".png") or ending(_MASKS.files(source) or {}, "", ".png")
    places = [files.get(folder + name) for folder in ("", _LISTS, "list/") for name in _MASK_LIST_NAMES]
    beside = [source / name for name in _MASK_LIST_NAMES]
    found = [file for file in places if file] + [path for path in beside if path.is_file()]
    plain = _part(source, files, "train", _TRAINVAL, own)
    if not found and not masks:
        return plain
    if not masks:
        words = "remove the list, to train on VOC's own 1,464 images"
        raise DataError(source, [f"{found[0]} is there; {published.not_there([_MASKS])[0]}; or {words}"])
    if not found:
        raise DataError(
            source, [f"{_MASKS.folders[0]} is there, and no list of it: put {_MASK_LIST.words} in"]
        )
    # Some publishers' masks are of all 10,582 images, others' only of those that VOC itself has none of.
    return dataclasses.replace(
        plain,
        names_of=found[0],
        names=_names(source, found[0]),
        count=_COUNTS["augmented"],
        labels={**own, **masks},
        downloads=(_MASK_LIST, _TRAINVAL, _MASKS),
    )


def _names(source: Path, file: File) -> list[str]:
    """The names in a list. Raises DataError for a line that is none, or a name that comes twice."""
    names: dict[str, int] = {}
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(source, [f"{file}: not a list of names in UTF-8 ({error})"]) from error
    for number, line in enumerate(lines, start=1):
        stems = {PurePosixPath(word).name.removesuffix(".jpg").removesuffix(".png") for word in line.split()}
        if len(stems) > 1:
            raise DataError(source, [f"{file}, line {number}: neither a name nor an image and its mask"])
        for name in stems:
            if name in names:
                words = f"{name} is already in line {names[name]}"
                raise DataError(source, [f"{file}, line {number}: {words}"])
            names[name] = number
    return list(names)


def _add(listing: Listing, split: str, part: _Part, partial: bool) -> None:
    of_list, of_images, of_labels = part.downloads
    listed = Wanted(
        f"names in {part.names_of}", part.count, dict.fromkeys(part.names, part.names_of), of_list
    )
    listing.problems += listed.missing(partial)

    def wanted(kind: str, files: Mapping[str, File], download: Download) -> Wanted:
        there = {name: files[name] for name in part.names if name in files}
        return Wanted(f"{split} {kind}", len(part.names), there, download)

    images = wanted("images", part.images, of_images)
    if split == "test" and partial and not images.files:
        return
    labels = None if part.labels is None else wanted("labels", part.labels, of_labels)
    published.add_split(listing, split, images, labels, partial)


DATASET = DataSet(list_voc, classes=VOC, options=Published)
