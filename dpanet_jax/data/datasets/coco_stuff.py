"""COCO-Stuff (164k) as its authors publish it: the images of COCO 2017, with 171 classes of things and stuff.

    DIR/train2017.zip  DIR/val2017.zip  DIR/stuffthingmaps_trainval2017.zip

or unpacked:

    train2017/NUMBER.jpg, val2017/NUMBER.jpg                       or images/train2017/ …
    stuffthingmaps_trainval2017/train2017/NUMBER.png and val2017/  or stuffthingmaps/, annotations/, or beside
                                                                   the images

A pixel of a label is a class's number in the authors' labels.txt, minus one; 255 is unlabelled.
"""

from collections.abc import Mapping
from pathlib import Path

from dpanet_jax.data import published
from dpanet_jax.data.archives import File
from dpanet_jax.data.classes import Classes
from dpanet_jax.data.listing import DataError, DataSet, Listing
from dpanet_jax.data.published import Download, Published, Wanted, ending

# The authors' labels.txt from 1 on: 91 things, then 91 kinds of stuff.
_LABELS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse",
    "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "hat", "backpack", "umbrella", "shoe",
    "eye glasses", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "plate",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "mirror", "dining table", "window", "desk", "toilet", "door", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "blender", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush", "hair brush", "banner",
    "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain",
    "desk-stuff", "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile",
    "floor-wood", "flower", "fog", "food-other", "fruit", "furniture-other", "grass", "gravel",
    "ground-other", "hill", "house", "leaves", "light", "mat", "metal", "mirror-stuff", "moss", "mountain",
    "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic", "platform",
    "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea",
    "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw",
    "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick",
    "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other",
    "waterdrops", "window-blind", "window-other", "wood",
)  # fmt: skip
# Things that COCO names and nobody segmented: no pixel has them.
_NEVER = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
_NUMBERS = [number for number in range(1, len(_LABELS) + 1) if number not in _NEVER]


def _color(number: int) -> tuple[int, int, int]:
    """RGB of a class's number in PASCAL VOC's colour map: the authors publish no colours of their own.

    Bits 0, 3 and 6 of the number are the highest of red, 1, 4 and 7 of green, 2 and 5 of blue.
    """
    red, green, blue = (
        sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)
    )
    return red, green, blue


COCO_STUFF = Classes.from_ids(
    names=[_LABELS[number - 1] for number in _NUMBERS],
    colors=[_color(number) for number in _NUMBERS],
    ids=[number - 1 for number in _NUMBERS],
)

_PAGE = "https://github.com/nightrome/cocostuff#downloads"
_COUNTS = {"train": 118287, "val": 5000}
_IMAGES = {
    split: Download(f"{name}.zip", _PAGE, (f"{name}/{name}", name, f"images/{name}"), inside=name)
    for split, name in (("train", "train2017"), ("val", "val2017"))
}
_MAPS = Download(
    "stuffthingmaps_trainval2017.zip",
    _PAGE,
    ("stuffthingmaps_trainval2017", "stuffthingmaps", "annotations"),
    holds="train2017",
    inside="",
)
# What mmsegmentation's converter writes beside the labels.
_CONVERTED = "_labelTrainIds"


def list_coco_stuff(source: Path, options: Published | None = None) -> Listing:
    """Matches images and labels of train and val; problems are in the listing.

    Raises DataError where one of the downloads is not there, ArchiveError where one is cut short.
    """
    partial = bool(options and options.partial)
    images = {split: _files(source, download) for split, download in _IMAGES.items()}
    labels = _labels(source, images)
    absent = [_IMAGES[split] for split, files in images.items() if files is None]
    absent += [_MAPS] if labels is None else []
    if labels is None or absent:
        raise DataError(source, published.not_there(absent))
    # A palette's indices are the ids, whatever its colours.
    listing = Listing(COCO_STUFF, label_colors={})
    for split, count in _COUNTS.items():
        pictures = ending(images[split] or {}, "", ".jpg")
        published.add_split(
            listing,
            split,
            Wanted(f"{split} images", count, pictures, _IMAGES[split]),
            Wanted(f"{split} labels", count, labels[split], _MAPS),
            partial,
        )
    published.require_apart(listing)
    return listing


def _files(source: Path, download: Download) -> Mapping[str, File] | None:
    files = download.files(source)
    if files is not None and not ending(files, "", ".jpg"):
        # The labels alone were unpacked in this folder, which has the images' name.
        return {**files, **(download.archived(source) or {})}
    return files


def _labels(
    source: Path, images: Mapping[str, Mapping[str, File] | None]
) -> dict[str, Mapping[str, File]] | None:
    """{split: {name: file}} of the labels, unpacked before packed; None where there are none."""
    beside = {split: ending(files or {}, "", ".png") for split, files in images.items()}
    if any(beside.values()):
        # All three archives were unpacked in one place: they have the same folders.
        labels = beside
    else:
        maps = _MAPS.files(source)
        if maps is None:
            return None
        labels = {split: ending(maps, f"{split}2017/", ".png") for split in _COUNTS}
    return {
        split: {name: file for name, file in found.items() if not name.endswith(_CONVERTED)}
        for split, found in labels.items()
    }


DATASET = DataSet(list_coco_stuff, classes=COCO_STUFF, options=Published)
