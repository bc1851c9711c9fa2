"""The figures image by image against counts by hand, their order, and hosts that each see a part."""

import csv

import numpy as np

from dpanet_jax import hosts
from dpanet_jax.data.classes import Classes
from dpanet_jax.evaluation.evaluate import evaluate
from dpanet_jax.evaluation.per_image import PerImage
from dpanet_jax.evaluation.protocols.whole import Whole


class Split:
    """Six examples of two sizes with ignored pixels; the last has no labelled pixel."""

    classes = Classes.from_ids(["dark", "light", "red"], [(0, 0, 0), (255, 255, 255), (255, 0, 0)])
    labelled = True
    name = "val"
    sizes = ((6, 8), (5, 9), (6, 8), (6, 8), (5, 9), (5, 9))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = rng.choice([0, 1, 2, 255] if index < 5 else [255], self.sizes[index]).astype(np.uint8)
        image = rng.integers(0, 256, (*self.sizes[index], 3)).astype(np.uint8)
        return {"image": image, "label": label, "name": f"town/{index}"}


def by_hand(threshold):
    """{name: (mean IoU, pixel accuracy)}."""
    rows = {}
    for index in range(len(Split())):
        example = Split()[index]
        valid = example["label"] != 255
        label, prediction = example["label"][valid], threshold.by_hand(example["image"])[valid]
        ious = [
            np.sum((label == k) & (prediction == k)) / np.sum((label == k) | (prediction == k))
            for k in range(3)
            if np.any((label == k) | (prediction == k))
        ]
        if ious:
            rows[example["name"]] = (np.mean(ious), np.mean(label == prediction))
    return rows


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_a_row_an_image_worst_first(threshold, tmp_path):
    expected, per_image = by_hand(threshold), PerImage(3)
    evaluate(Whole(threshold()), threshold.variables, Split(), 2, observers=[per_image])
    rows = read(per_image.write(tmp_path / "rows.csv"))
    assert rows.pop() == {"name": "town/5", "mean_iou": "", "pixel_accuracy": ""}
    assert [row["name"] for row in rows] == sorted(expected, key=lambda name: expected[name][0])
    for row in rows:
        figures = (float(row["mean_iou"]), float(row["pixel_accuracy"]))
        np.testing.assert_allclose(figures, expected[row["name"]], rtol=1e-12)


def test_hosts_put_their_images_together(threshold, tmp_path, monkeypatch):
    """Two processes, one after another: the file of the last holds the images of both."""
    alone, last, sent = PerImage(3), None, []
    evaluate(Whole(threshold()), threshold.variables, Split(), 2, observers=[alone])
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "gather", lambda content: sent.append(content) or sent)
    for index in range(2):
        monkeypatch.setattr(hosts, "index", lambda index=index: index)
        last = PerImage(3)
        evaluate(Whole(threshold()), threshold.variables, Split(), 2, observers=[last])
    files = [observer.write(tmp_path / f"{k}.csv").read_bytes() for k, observer in enumerate([alone, last])]
    assert files[0] == files[1]


def test_equal_images_keep_their_order_and_odd_names_can_be_written(tmp_path):
    per_image, label = PerImage(2), np.zeros((2, 2), np.uint8)
    for index, name in ((1, "a,b"), (0, "caf\udce9")):
        per_image.see(name, index, label, label)
    assert [row["name"] for row in read(per_image.write(tmp_path / "rows.csv"))] == ["caf\\udce9", "a,b"]
