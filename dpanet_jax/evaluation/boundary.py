"""Boundary IoU (Cheng et al., "Boundary IoU", CVPR 2021, arXiv 2103.16562) for semantic classes.

For a class, G is the set of its pixels in the label and P that in the prediction; G_d and P_d are those of
their pixels whose distance to the contour of G or P is at most d. The figure is |G_d ∩ P_d ∩ G ∩ P| over
|(G_d ∩ G) ∪ (P_d ∩ P)|, both counted over the whole split. As in the authors' code, distances are those of
a square of 2d + 1 pixels, d is 2 % of the image's diagonal, rounded and at least 1, and the image's edge is a
contour. An ignored pixel belongs to no class, in the label and in the prediction alike.
"""

import math
from typing import Any

import numpy as np

from dpanet_jax.data.classes import IGNORE_LABEL

# Of the image's diagonal; the paper's choice for all its data sets.
_DILATION = 0.02


class BoundaryIoU:
    """An observer of `evaluate`. intersection, union: int64 (K,), pixels of all images seen."""

    def __init__(self, num_classes: int) -> None:
        self.intersection = np.zeros(num_classes, np.int64)
        self.union = np.zeros(num_classes, np.int64)

    def see(self, name: str, index: int, label: np.ndarray, prediction: np.ndarray) -> None:
        """Counts one image; see `Observer`."""
        del name, index
        prediction = np.where(label == IGNORE_LABEL, np.uint8(IGNORE_LABEL), prediction)
        width = dilation(label.shape[0], label.shape[1])
        of_label, of_prediction = boundary(label, width), boundary(prediction, width)
        both = of_label & of_prediction & (label == prediction)
        intersection = self._count(label[both])
        self.intersection += intersection
        self.union += self._count(label[of_label]) + self._count(prediction[of_prediction]) - intersection

    def merge(self, other: "BoundaryIoU") -> None:
        """Adds what another host has counted."""
        self.intersection += other.intersection
        self.union += other.union

    def compute(self) -> dict[str, Any]:
        """ "iou" float64 (K,), in [0, 1], NaN for a class without a boundary; "mean": over the others."""
        present = self.union > 0
        iou = np.where(present, self.intersection / np.maximum(self.union, 1), np.nan)
        return {"iou": iou, "mean": float(iou[present].mean()) if present.any() else float("nan")}

    def _count(self, ids: np.ndarray) -> np.ndarray:
        """How often each class stands in `ids`; 255 is none."""
        return np.bincount(ids, minlength=IGNORE_LABEL + 1)[: len(self.union)]


def dilation(height: int, width: int) -> int:
    """d of an image: how many pixels from its contour the boundary of a mask reaches."""
    return max(1, round(_DILATION * math.hypot(height, width)))


def boundary(ids: np.ndarray, width: int) -> np.ndarray:
    """uint8 (H, W) ids → bool (H, W): which pixels lie in the boundary of the mask of their own id.

    They are those in whose square of 2 · width + 1 pixels another id, or the image's edge, lies. All masks
    are done at once: the square holds one id where its least and its largest are the same.
    """
    inner = np.zeros(ids.shape, bool)
    size = 2 * width + 1
    if min(ids.shape) >= size:
        least, largest = (_over_squares(ids, size, extreme) for extreme in (np.minimum, np.maximum))
        inner[width:-width, width:-width] = least == largest
    return ~inner


def _over_squares(ids: np.ndarray, size: int, extreme: np.ufunc) -> np.ndarray:
    """The least or largest id of every square of `size` that lies in the image: (H-size+1, W-size+1)."""
    for _ in range(2):
        done = 1
        while (
            done < size
        ):  # Windows of `done` make those of twice as many, so the cost grows with its logarithm.
            step = min(done, size - done)
            ids = extreme(ids[:-step], ids[step:])
            done += step
        ids = ids.T
    return ids
