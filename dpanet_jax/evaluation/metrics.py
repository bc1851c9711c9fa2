"""The confusion matrix, and every figure that is computed from it."""

from typing import Any

import numpy as np

from dpanet_jax.data.classes import IGNORE_LABEL


class ConfusionMatrix:
    """Counts of (label, prediction) pairs over a whole data set: int64 (K, K), rows are labels.

    State, merge, compute: parts counted on different hosts add up to the same figures.
    """

    def __init__(self, num_classes: int, counts: np.ndarray | None = None) -> None:
        self.num_classes = num_classes
        shape = (num_classes, num_classes)
        self.counts = np.zeros(shape, np.int64) if counts is None else counts.astype(np.int64)
        if self.counts.shape != shape:
            raise ValueError(f"counts have shape {self.counts.shape}, {num_classes} classes need {shape}")

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Counts integer arrays of one shape; labels are in [0, K) or 255, which is not counted.

        Raises ValueError for other values, or where the shapes differ.
        """
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        if labels.shape != predictions.shape:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ in shape")
        valid = labels != IGNORE_LABEL
        labels = labels[valid].astype(np.int64)
        predictions = predictions[valid].astype(np.int64)
        for what, values in (("label", labels), ("prediction", predictions)):
            if values.size and not 0 <= values.min() <= values.max() < self.num_classes:
                raise ValueError(
                    f"a {what} is outside [0, {self.num_classes}): from {values.min()} to {values.max()}"
                )
        pairs = np.bincount(labels * self.num_classes + predictions, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.counts.shape)

    def merge(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """The matrix of both parts together."""
        return ConfusionMatrix(self.num_classes, self.counts + other.counts)

    def compute(self, absent: str = "exclude") -> dict[str, Any]:
        """The figures, all in [0, 1]; a ratio without a denominator is NaN.

        "iou" and "accuracy" float64 (K,): TP/(TP+FP+FN) and TP/(TP+FN); "present" bool (K,): in labels or
        predictions; "labels" int64 (K,): labelled pixels; "mean_iou": over the classes present, or, with
        `absent="zero"`, over all K with 0 for the absent; "mean_accuracy": over the classes with labels;
        "pixel_accuracy"; "frequency_weighted_iou".
        """
        if absent not in ("exclude", "zero"):
            raise ValueError(f"absent={absent!r}: choose exclude or zero")
        true_positives = np.diag(self.counts).astype(np.float64)
        labels, predictions = self.counts.sum(axis=1), self.counts.sum(axis=0)
        union = labels + predictions - np.diag(self.counts)
        total = self.counts.sum()
        iou = _ratio(true_positives, union)
        accuracy = _ratio(true_positives, labels)
        return {
            "iou": iou,
            "accuracy": accuracy,
            "present": union > 0,
            "labels": labels,
            "mean_iou": _mean(iou) if absent == "exclude" else float(np.nan_to_num(iou).mean()),
            "mean_accuracy": _mean(accuracy),
            "pixel_accuracy": float(_ratio(true_positives.sum(), total)),
            "frequency_weighted_iou": float(_ratio(np.nansum(labels * iou), total)),
        }


def _ratio(part: Any, whole: Any) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(whole) > 0, part / np.asarray(whole, np.float64), np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
