"""Boundary IoU against a transcription of the published definition, mask by mask and step by step."""

import numpy as np
import pytest

from dpanet_jax.evaluation.boundary import BoundaryIoU, boundary, dilation


def eroded(mask, times):
    """Erosion by a 3×3 square, `times` over; beyond the image there is nothing."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        height, width = mask.shape
        shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        mask = np.logical_and.reduce(shifted)
    return mask


def by_hand(pairs, num_classes):
    """The paper's Boundary IoU of each class, over all pairs of label and prediction."""
    intersection, union = np.zeros(num_classes), np.zeros(num_classes)
    for label, prediction in pairs:
        d = max(1, int(round(0.02 * np.sqrt(label.shape[0] ** 2 + label.shape[1] ** 2))))
        for k in range(num_classes):
            mask, predicted = label == k, (prediction == k) & (label != 255)
            mask_edge, predicted_edge = mask & ~eroded(mask, d), predicted & ~eroded(predicted, d)
            intersection[k] += np.sum(mask_edge & predicted_edge)
            union[k] += np.sum(mask_edge | predicted_edge)
    with np.errstate(invalid="ignore"):
        return intersection / union


def blocks(rng, size, ids):
    """Patches of ids, so that masks have an inside."""
    coarse = rng.choice(ids, (-(-size[0] // 17), -(-size[1] // 17))).astype(np.uint8)
    return np.kron(coarse, np.ones((17, 17), np.uint8))[: size[0], : size[1]]


def test_against_the_definition():
    rng = np.random.default_rng(0)
    pairs = []
    for size in ((60, 90), (130, 101), (3, 70), (1, 1), (2, 2)):
        label = blocks(rng, size, [0, 1, 2, 255])
        prediction = np.where(rng.random(size) < 0.005, 1, np.roll(label, 2, 1)).astype(np.uint8)
        prediction[prediction == 255] = 0
        pairs.append((label, prediction))
    whole, halves = BoundaryIoU(4), [BoundaryIoU(4), BoundaryIoU(4)]
    for index, pair in enumerate(pairs):
        whole.see("", index, *pair)
        halves[index % 2].see("", index, *pair)
    expected = by_hand(pairs, 4)
    assert np.isnan(expected[3]) and 0.1 < np.nanmin(expected) and np.nanmax(expected) < 0.95
    np.testing.assert_array_equal(whole.compute()["iou"], expected)
    assert whole.compute()["mean"] == pytest.approx(np.nanmean(expected), abs=1e-15)
    halves[0].merge(halves[1])
    np.testing.assert_array_equal(halves[0].compute()["iou"], expected)


def test_a_perfect_prediction_has_one_and_an_ignored_image_nothing():
    label = blocks(np.random.default_rng(1), (60, 90), [0, 1, 255])
    counted = BoundaryIoU(2)
    counted.see("", 0, label, np.where(label == 255, 1, label).astype(np.uint8))
    assert counted.compute()["iou"].tolist() == [1, 1]
    nothing = BoundaryIoU(2)
    nothing.see("", 0, np.full((9, 9), 255, np.uint8), np.zeros((9, 9), np.uint8))
    assert np.isnan(nothing.compute()["iou"]).all() and np.isnan(nothing.compute()["mean"])


def test_the_width_is_two_percent_of_the_diagonal():
    assert dilation(1024, 2048) == 46 and dilation(10, 10) == 1
    edge = boundary(np.zeros((7, 9), np.uint8), 2)
    assert not edge[2:-2, 2:-2].any() and edge.sum() == 7 * 9 - 3 * 5
