"""The figures of every image by itself, so that the worst can be looked at."""

import csv
import io
import math
from typing import NamedTuple

import numpy as np

from dpanet_jax import paths
from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.paths import AnyPath


class ImageFigures(NamedTuple):
    """One image's figures, in [0, 1]; NaN where none of its pixels is labelled.

    place: of the image in its split. mean_iou: over the classes that its label or its prediction has.
    """

    name: str
    place: int
    mean_iou: float
    pixel_accuracy: float


class PerImage:
    """An observer of `evaluate` that keeps the figures of each image."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._rows: list[ImageFigures] = []

    def see(self, name: str, index: int, label: np.ndarray, prediction: np.ndarray) -> None:
        """Counts one image; see `Observer`."""
        matrix = ConfusionMatrix(self._num_classes)
        matrix.update(label, prediction)
        figures = matrix.compute()
        self._rows.append(ImageFigures(name, index, figures["mean_iou"], figures["pixel_accuracy"]))

    def merge(self, other: "PerImage") -> None:
        """Takes in the images that another host has seen."""
        self._rows += other._rows

    def worst_first(self) -> list[ImageFigures]:
        """By mean IoU, the lowest first; equal ones in the split's order, those without labels last."""
        return sorted(
            self._rows, key=lambda row: (math.isnan(row.mean_iou), np.nan_to_num(row.mean_iou), row.place)
        )

    def write(self, path: AnyPath) -> AnyPath:
        """Writes a CSV with a row for each image, worst first: name, mean_iou, pixel_accuracy.

        Fractions in [0, 1]; NaN is empty. A byte of a name that is no text is a backslash escape. Returns
        `path`.
        """
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["name", "mean_iou", "pixel_accuracy"])
        for row in self.worst_first():
            name = row.name.encode("utf-8", "backslashreplace").decode()
            figures = [row.mean_iou, row.pixel_accuracy]
            writer.writerow([name, *("" if math.isnan(figure) else figure for figure in figures)])
        return paths.write_text(path, table.getvalue())
