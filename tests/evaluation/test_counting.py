"""The counts of the devices against NumPy's, whatever the shapes, the classes and the number of pixels."""

import jax
import numpy as np
import pytest

from dpanet_jax.evaluation import counting
from dpanet_jax.evaluation.counting import DeviceCounts

CHUNK = 64  # times eight devices


def pairs(rng, shape, num_classes):
    labels = rng.integers(0, num_classes + 1, shape)
    return np.where(labels == num_classes, 255, labels).astype(np.uint8), rng.integers(
        0, num_classes, shape
    ).astype(np.uint8)


def by_hand(batches, num_classes):
    expected = np.zeros((num_classes, num_classes), np.int64)
    for labels, predictions in batches:
        valid = labels != 255
        np.add.at(expected, (labels[valid], predictions[valid]), 1)
    return expected


@pytest.mark.parametrize("num_classes", [1, 3, 150, 255])
def test_as_numpy_counts(num_classes):
    """Batches that leave a chunk unfinished, fill it to its last pixel, and reach over several."""
    rng = np.random.default_rng(num_classes)
    shapes = [(1, 3, 5), (0, 4, 4), (7, 71), (8 * CHUNK,), (2, 40, 33)]
    batches = [pairs(rng, shape, num_classes) for shape in shapes]
    counts = DeviceCounts(num_classes, CHUNK)
    for batch in batches:
        counts.add(*batch)
    np.testing.assert_array_equal(counts.matrix().counts, by_hand(batches, num_classes))
    assert counts.matrix().counts.dtype == np.int64
    one_more = pairs(rng, (9,), num_classes)
    counts.add(*one_more)
    np.testing.assert_array_equal(counts.matrix().counts, by_hand([*batches, one_more], num_classes))


def test_nothing_and_what_is_ignored_count_nothing():
    counts = DeviceCounts(2, CHUNK)
    assert not counts.matrix().counts.any()
    # What a row that only fills up a batch looks like; its prediction may be anything.
    counts.add(np.full((3, 40, 9), 255, np.uint8), np.full((3, 40, 9), 200, np.uint8))
    assert not counts.matrix().counts.any()


def test_counts_beyond_what_int32_and_float32_hold(monkeypatch):
    """Chunks that say they hold 2^30 + 1 pixels on every device: their sum is exact."""
    many = 2**30 + 1
    count = counting._pairs
    monkeypatch.setattr(counting, "_pairs", lambda *rows, num_classes: count(*rows, num_classes=2) * many)
    counts = DeviceCounts(2, 1)
    for _ in range(3):
        counts.add(np.ones(8, np.uint8), np.zeros(8, np.uint8))
    assert counts.matrix().counts.tolist() == [[0, 0], [24 * many, 0]]


def test_one_shape_is_compiled_and_every_device_counts_its_own():
    rng = np.random.default_rng(0)
    counts = DeviceCounts(5, CHUNK)
    before = counting._pairs._cache_size()
    for size in range(1, 60, 7):
        counts.add(*pairs(rng, (size, 2 * size), 5))
    counts.matrix()
    assert counting._pairs._cache_size() == before + 1
    rows = counts._devices.put_rows(np.zeros((8, CHUNK), np.uint8))
    assert counting._pairs(rows, rows, num_classes=5).sharding.is_equivalent_to(rows.sharding, 2)
    assert len(rows.sharding.device_set) == jax.local_device_count() == 8


@pytest.mark.parametrize(("label", "prediction"), [(3, 0), (0, 3), (254, 0), (0, 255)])
def test_ids_that_cannot_be(label, prediction):
    counts = DeviceCounts(3, CHUNK)
    counts.add(np.array([label], np.uint8), np.array([prediction], np.uint8))
    with pytest.raises(ValueError, match=r"1 labels or predictions are outside \[0, 3\)"):
        counts.matrix()


def test_shapes_and_types_that_cannot_be():
    counts = DeviceCounts(3, CHUNK)
    with pytest.raises(ValueError, match="differ in shape"):
        counts.add(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
    with pytest.raises(ValueError, match="must be uint8"):
        counts.add(np.zeros(2, np.int64), np.zeros(2, np.uint8))
