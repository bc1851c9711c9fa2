"""Evaluation over a split of mixed sizes against a count image by image, what it keeps, and several hosts."""

import numpy as np
import pytest

from dpanet_jax import hosts
from dpanet_jax.data import pipeline
from dpanet_jax.data.classes import Classes
from dpanet_jax.evaluation.evaluate import evaluate
from dpanet_jax.evaluation.protocols import make
from dpanet_jax.evaluation.protocols.whole import Whole

CLASSES = Classes.from_ids(["dark", "light", "red"], [(0, 0, 0), (255, 255, 255), (255, 0, 0)])


class Split:
    """Five examples of two sizes, with ignored pixels."""

    classes = CLASSES
    labelled = True
    name = "val"
    sizes = ((6, 8), (5, 9), (6, 8), (6, 8), (5, 9))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = rng.choice([0, 1, 2, 255], self.sizes[index]).astype(np.uint8)
        image = rng.integers(0, 256, (*self.sizes[index], 3)).astype(np.uint8)
        return {"image": image, "label": label, "name": str(index)}


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_example_counts_once_whatever_the_batch(batch_size, threshold):
    split = Split()
    expected = np.zeros((3, 3), np.int64)
    for i in range(len(split)):
        example = split[i]
        valid = example["label"] != 255
        np.add.at(expected, (example["label"][valid], threshold.by_hand(example["image"])[valid]), 1)
    matrix = evaluate(Whole(threshold()), threshold.variables, split, batch_size).matrix
    np.testing.assert_array_equal(matrix.counts, expected)


def test_it_keeps_what_was_asked_for_from_its_own_pass(threshold):
    split, passes = Split(), []

    class Counting(Whole):
        def ids(self, images, variables):
            passes.append(len(images))
            return super().ids(images, variables)

    evaluated = evaluate(Counting(threshold()), threshold.variables, split, 2, keep=(1, 4))
    assert sum(passes) == 6  # Three of one size make two batches, the second filled up; and two of the other.
    assert sorted(evaluated.kept) == [1, 4]
    for index, kept in evaluated.kept.items():
        np.testing.assert_array_equal(kept.image, split[index]["image"])
        np.testing.assert_array_equal(kept.label, split[index]["label"])
        np.testing.assert_array_equal(kept.prediction, threshold.by_hand(kept.image))


@pytest.mark.parametrize("name", ["whole", "slide", "multiscale", "center_crop"])
def test_hosts_add_up_their_shares(name, threshold, monkeypatch):
    """Three processes, one after another: each counts its rows, and the sum is one process's matrix.

    The last one has a batch with nothing but rows that fill it up.
    """
    split = Split()
    protocol = make(name, threshold(), crop_size=(4, 5))
    expected = evaluate(protocol, threshold.variables, split, 5).matrix.counts
    assert expected.sum() > 50
    sent = []
    monkeypatch.setattr(hosts, "count", lambda: 3)
    monkeypatch.setattr(hosts, "gather", lambda content: sent.append(content) or sent)
    for index in range(3):
        monkeypatch.setattr(hosts, "index", lambda index=index: index)
        matrix = evaluate(protocol, threshold.variables, split, 3).matrix
    np.testing.assert_array_equal(matrix.counts, expected)


@pytest.mark.parametrize("asked", [0, 3])
def test_as_many_threads_read_as_are_asked_for(threshold, monkeypatch, asked):
    started, options = [], pipeline.grain.ReadOptions
    monkeypatch.setattr(pipeline.cores, "readers", lambda: 5)
    monkeypatch.setattr(
        pipeline.grain,
        "ReadOptions",
        lambda **given: started.append(given["num_threads"]) or options(**given),
    )
    evaluate(Whole(threshold()), threshold.variables, Split(), 2, num_threads=asked)
    assert started == [asked or 5]
