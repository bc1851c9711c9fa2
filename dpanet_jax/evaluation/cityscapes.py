"""Cityscapes as its benchmark counts: IoU of the categories, and iIoU of classes and categories.

As in the authors' evaluation (cityscapesScripts 2.3, evalPixelLevelSemanticLabeling.py), which this equals:

- The IoU of a category takes all of its classes for one.
- In the iIoU a pixel of an instance weighs the mean size of its class's instances over the size of its own:
  iIoU = iTP / (iTP + FP + iFN), where the sums of weights iTP and iFN are over the instances, and FP are the
  pixels of the IoU. It is of the classes and categories whose objects are told apart.
- A mean is over what has a figure. Pixels that are labelled with no class count nowhere.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from dpanet_jax import paths
from dpanet_jax.data import archives, images
from dpanet_jax.data.archives import File
from dpanet_jax.data.classes import IGNORE_LABEL
from dpanet_jax.data.datasets.cityscapes import CITYSCAPES
from dpanet_jax.data.listing import DataError
from dpanet_jax.errors import UsageError
from dpanet_jax.evaluation import report
from dpanet_jax.evaluation.metrics import ConfusionMatrix

_CATEGORIES = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
# Pixels of an instance, the mean of the authors' training set, of the classes that have instances.
_MEAN_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
# An id above this is an instance: its class's id times 1000, plus a number. Below stands a class's own id.
_FIRST_INSTANCE = 1000
_FILE = re.compile(r"(.+)_gt(Fine|Coarse)_instanceIds\.png")


def _group(names: Iterable[str]) -> list[int]:
    return [CITYSCAPES.names.index(name) for name in names]


# Of each train id its category's place; 255 has none.
_CATEGORY_OF = np.full(IGNORE_LABEL + 1, IGNORE_LABEL, np.uint8)
for _place, _names in enumerate(_CATEGORIES.values()):
    _CATEGORY_OF[_group(_names)] = _place


def has_classes_of(names: Iterable[str]) -> bool:
    """Whether a data set's class names are those of Cityscapes, in its order."""
    return tuple(names) == CITYSCAPES.names


class Instance(NamedTuple):
    """One instance of a class (train id; 255: left out), and how many of its pixels are predicted as what."""

    train_id: int
    size: int
    as_class: int
    as_category: int


class Instances:
    """An observer of `evaluate` that counts the instances of each image.

    files: {name in the split: file of instance ids}, as `find_instances` returns them.
    """

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = files
        self.seen: list[Instance] = []

    def __getstate__(self) -> dict[str, Any]:
        # The files are those of this host, and an open archive cannot be sent to another.
        return {"_files": {}, "seen": self.seen}

    def see(self, name: str, index: int, label: np.ndarray, prediction: np.ndarray) -> None:
        """Counts one image; see `Observer`. DataError where its file is not what Cityscapes publishes."""
        del index
        file = self._files[name]
        ids = np.asarray(images.decode(images.read_bytes(file), file))
        if ids.shape != label.shape:
            words = f"of shape {ids.shape}, where its image is {label.shape}: not its file of instance ids"
            raise DataError(file, [words])
        try:
            self.seen += count_instances(ids, prediction)
        except ValueError as error:
            raise DataError(file, [str(error)]) from error

    def merge(self, other: "Instances") -> None:
        """Adds what another host has counted."""
        self.seen += other.seen


def count_instances(ids: np.ndarray, prediction: np.ndarray) -> list[Instance]:
    """The instances of one image: `ids` (H, W) of its file, `prediction` uint8 (H, W) train ids.

    Raises ValueError for an id of a class without instances.
    """
    inside = ids > _FIRST_INSTANCE
    predicted = prediction[inside]
    found, place, sizes = np.unique(ids[inside], return_inverse=True, return_counts=True)
    raw_ids = found.astype(np.int64) // _FIRST_INSTANCE
    train_ids = np.array([_class_of_instance(raw_id) for raw_id in raw_ids.tolist()], np.uint8)
    of_pixel = train_ids[place]
    as_class = np.bincount(place, predicted == of_pixel, len(found))
    as_category = np.bincount(place, _CATEGORY_OF[predicted] == _CATEGORY_OF[of_pixel], len(found))
    columns = [array.astype(int).tolist() for array in (train_ids, sizes, as_class, as_category)]
    return [Instance(*row) for row in zip(*columns, strict=True)]


def _class_of_instance(raw_id: int) -> int:
    """Its train id; 255 for classes that are left out, such as caravan and trailer."""
    if raw_id > IGNORE_LABEL or not CITYSCAPES.known[raw_id]:
        raise ValueError(f"{raw_id} is no id of a class, so {raw_id}000 and above are no instances")
    train_id = int(CITYSCAPES.id_map[raw_id])
    if train_id != IGNORE_LABEL and CITYSCAPES.names[train_id] not in _MEAN_SIZES:
        raise ValueError(
            f"an id from {raw_id}000 on would be an instance of {CITYSCAPES.names[train_id]}, which has none"
        )
    return train_id


def find_instances(source: paths.PathLike, names: Iterable[str]) -> dict[str, File]:
    """{name in the split: its file of instance ids}, somewhere below a folder or in a ZIP archive.

    NAME_gtFine_instanceIds.png comes before NAME_gtCoarse_instanceIds.png. Raises UsageError, with the first
    of the names, where some have no file or one has two; ArchiveError for an archive that cannot be read.
    """
    root = paths.local(source)
    if root.is_dir():
        files = archives.files_of_folder(root)
    elif root.is_file():
        files = archives.files_of_archive(root)
    else:
        raise UsageError(f"--instances={source}: no such folder or archive")
    found: dict[str, dict[str, File]] = {"Fine": {}, "Coarse": {}}
    for path, file in files.items():
        if match := _FILE.fullmatch(PurePosixPath(path).name):
            name, kind = match.groups()
            if name in found[kind]:
                raise UsageError(f"--instances: {found[kind][name]} and {file} have one name; remove one")
            found[kind][name] = file
    by_name = found["Coarse"] | found["Fine"]
    files_of = {name: by_name.get(PurePosixPath(name).name) for name in names}
    missing = [PurePosixPath(name).name for name, file in files_of.items() if file is None]
    if missing:
        raise UsageError(
            f"--instances: {len(missing):,} of {len(files_of):,} images have no file below {root}, such as "
            f"{missing[0]}_gtFine_instanceIds.png; gtFine_trainvaltest.zip has those of train and val"
        )
    return {name: file for name, file in files_of.items() if file is not None}


class Score(NamedTuple):
    """In [0, 1]; NaN where there is none."""

    iou: float
    instance_iou: float = math.nan


class Figures(NamedTuple):
    """{name: score}, in the benchmark's order; has_instances: whether instances were counted."""

    classes: dict[str, Score]
    categories: dict[str, Score]
    has_instances: bool


def compute(matrix: ConfusionMatrix, instances: Instances | None = None) -> Figures:
    """The benchmark's figures from the confusion matrix (19 classes) and the instances of one evaluation."""
    seen = instances.seen if instances is not None else None
    classes = {name: _score(matrix.counts, (name,), seen, "as_class") for name in CITYSCAPES.names}
    categories = {
        name: _score(matrix.counts, members, seen, "as_category") for name, members in _CATEGORIES.items()
    }
    return Figures(classes, categories, instances is not None)


def _score(counts: np.ndarray, names: Sequence[str], seen: Sequence[Instance] | None, hit: str) -> Score:
    """Of some classes taken for one. hit: the field with an instance's pixels that are predicted right."""
    group = _group(names)
    hits = int(counts[np.ix_(group, group)].sum())
    labelled, predicted = int(counts[group].sum()), int(counts[:, group].sum())
    union = labelled + predicted - hits
    iou = hits / union if union else math.nan
    if seen is None or not _MEAN_SIZES.keys() >= set(names):
        return Score(iou)
    own = [item for item in seen if item.train_id in group]
    weights = [_MEAN_SIZES[CITYSCAPES.names[item.train_id]] / item.size for item in own]
    right = [getattr(item, hit) for item in own]
    # Exact sums: the order of the images, or of the hosts, changes nothing.
    found = math.fsum(pixels * weight for pixels, weight in zip(right, weights, strict=True))
    lost = math.fsum(
        (item.size - pixels) * weight for item, pixels, weight in zip(own, right, weights, strict=True)
    )
    total = found + (predicted - hits) + lost
    return Score(iou, found / total if total else math.nan)


def mean(scores: Mapping[str, Score]) -> Score:
    """The means over what has a figure."""
    ious, instance_ious = (
        [value for value in values if value == value] for values in zip(*scores.values(), strict=True)
    )
    return Score(_mean(ious), _mean(instance_ious))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def as_json(figures: Figures) -> dict[str, Any]:
    """What the report holds: the means, and a row a class and a category. NaN is null."""

    def row(score: Score, prefix: str = "") -> dict[str, float | None]:
        values = {f"{prefix}iou": report.number(score.iou)}
        if figures.has_instances:
            values[f"{prefix}instance_iou"] = report.number(score.instance_iou)
        return values

    return {
        **row(mean(figures.classes), "mean_class_"),
        **row(mean(figures.categories), "mean_category_"),
        "classes": [{"name": name, **row(score)} for name, score in figures.classes.items()],
        "categories": [{"name": name, **row(score)} for name, score in figures.categories.items()],
    }


def print_table(figures: Figures) -> None:
    """Prints the categories and the means, and with instances the classes that have them; in percent."""
    table = Table(title="Cityscapes benchmark")
    table.add_column("")
    for column in ("IoU %", *(["iIoU %"] if figures.has_instances else [])):
        table.add_column(column, justify="right")

    def add(words: str, score: Score) -> None:
        cells = [report.percent(score.iou), report.percent(score.instance_iou)]
        table.add_row(words, *cells[: 1 + figures.has_instances])

    if figures.has_instances:
        for name in _MEAN_SIZES:
            add(name, figures.classes[name])
        table.add_section()
    for name, score in figures.categories.items():
        add(name, score)
    table.add_section()
    add("mean of classes", mean(figures.classes))
    add("mean of categories", mean(figures.categories))
    report.show(table)
