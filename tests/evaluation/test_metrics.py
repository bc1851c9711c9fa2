"""The confusion matrix against one counted pixel by pixel, and its figures by their definitions."""

import numpy as np
import pytest

from dpanet_jax.evaluation.metrics import ConfusionMatrix


def count(labels, predictions, num_classes):
    counts = np.zeros((num_classes, num_classes), np.int64)
    for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if label != 255:
            counts[label, prediction] += 1
    return counts


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (3, 9, 8)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    return labels, rng.integers(0, 4, labels.shape).astype(np.uint8)


def test_counts_and_figures(pair):
    labels, predictions = pair
    matrix = ConfusionMatrix(5)  # class 4 is nowhere
    matrix.update(labels, predictions)
    np.testing.assert_array_equal(matrix.counts, count(labels, predictions, 5))
    figures = matrix.compute()
    valid = labels != 255
    ious, accuracies, shares = [], [], []
    for k in range(4):
        intersection = np.sum((labels == k) & (predictions == k))
        union = np.sum(((labels == k) | (predictions == k)) & valid)
        ious.append(intersection / union)
        accuracies.append(intersection / np.sum(labels == k))
        shares.append(np.sum(labels == k) / valid.sum())
    np.testing.assert_allclose(figures["iou"][:4], ious)
    assert np.isnan(figures["iou"][4]) and not figures["present"][4]
    assert figures["mean_iou"] == pytest.approx(np.mean(ious))
    assert matrix.compute("zero")["mean_iou"] == pytest.approx(np.sum(ious) / 5)
    assert figures["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert figures["pixel_accuracy"] == pytest.approx(np.mean((labels == predictions)[valid]))
    assert figures["frequency_weighted_iou"] == pytest.approx(np.dot(shares, ious))


def test_parts_merge_to_the_whole(pair):
    labels, predictions = pair
    whole, first, rest = (ConfusionMatrix(4) for _ in range(3))
    whole.update(labels, predictions)
    first.update(labels[:1], predictions[:1])
    rest.update(labels[1:], predictions[1:])
    np.testing.assert_array_equal(first.merge(rest).counts, whole.counts)


def test_a_class_that_is_only_predicted_counts_as_zero():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 0]), np.array([0, 2]))
    figures = matrix.compute()
    np.testing.assert_array_equal(figures["iou"][[0, 2]], [0.5, 0])
    assert figures["mean_iou"] == 0.25
    assert figures["mean_accuracy"] == 0.5


def test_nothing_counted_is_nan_and_not_a_warning():
    assert np.isnan(ConfusionMatrix(2).compute()["mean_iou"])


def test_large_counts_do_not_overflow():
    matrix = ConfusionMatrix(2, np.full((2, 2), 2**40))
    matrix.update(np.array([1]), np.array([1]))
    assert matrix.counts[1, 1] == 2**40 + 1


@pytest.mark.parametrize(
    ("labels", "predictions", "words"),
    [
        ([0, 3], [0, 0], "label is outside"),
        ([0, 1], [0, 7], "prediction is outside"),
        ([0, 1, 1], [0, 0], "differ in shape"),
    ],
)
def test_bad_input(labels, predictions, words):
    with pytest.raises(ValueError, match=words):
        ConfusionMatrix(3).update(np.array(labels), np.array(predictions))
