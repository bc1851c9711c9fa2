"""The report's files against the confusion matrix they are of, and the table on the screen."""

import csv
import json

import numpy as np

from dpanet_jax.evaluation.boundary import BoundaryIoU
from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.evaluation.report import print_table, write_files

NAMES = ["road", "car", "train"]
MATRIX = ConfusionMatrix(3, np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]]))


def test_files(tmp_path):
    path = write_files(MATRIX, NAMES, tmp_path / "evaluation" / "val_whole", {"split": "val"})
    report = json.loads(path.read_text())
    assert report["split"] == "val" and report["confusion_matrix"] == MATRIX.counts.tolist()
    assert report["mean_iou"] == np.mean([6 / 9, 3 / 6])
    assert report["pixel_accuracy"] == 9 / 12
    assert [row["iou"] for row in report["classes"]] == [6 / 9, 3 / 6, None]
    assert [row["pixels"] for row in report["classes"]] == [8, 4, 0]
    with open(tmp_path / "evaluation" / "val_whole.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == NAMES
    assert float(rows[0]["iou"]) == 6 / 9 and rows[2]["iou"] == ""
    assert sorted(p.name for p in path.parent.iterdir()) == ["val_whole.csv", "val_whole.json"]


def test_an_absent_class_can_count_as_zero(tmp_path):
    path = write_files(MATRIX, NAMES, tmp_path / "val", {}, absent="zero")
    assert json.loads(path.read_text())["mean_iou"] == (6 / 9 + 3 / 6) / 3


def test_table(capsys):
    print_table(MATRIX, NAMES, "streets val")
    out = capsys.readouterr().out
    assert "streets val" in out and "66.67" in out and "train (absent)" in out and "58.33" in out


def test_a_name_is_no_markup(capsys):
    print_table(MATRIX, ["[/road]", "[red]car", "train"], "a [b] c")
    out = capsys.readouterr().out
    assert "[/road]" in out and "[red]car" in out and "a [b] c" in out


def test_boundary_iou_is_in_the_table_and_the_files(tmp_path, capsys):
    boundary = BoundaryIoU(3)
    boundary.intersection[:], boundary.union[:] = [1, 1, 0], [4, 3, 0]
    path = write_files(MATRIX, NAMES, tmp_path / "val", {}, boundary=boundary)
    report = json.loads(path.read_text())
    assert [row["boundary_iou"] for row in report["classes"]] == [1 / 4, 1 / 3, None]
    assert report["mean_boundary_iou"] == np.mean([1 / 4, 1 / 3])
    with open(tmp_path / "val.csv") as file:
        assert [row["boundary_iou"] for row in csv.DictReader(file)] == ["0.25", str(1 / 3), ""]
    print_table(MATRIX, NAMES, "streets val", boundary=boundary)
    out = capsys.readouterr().out
    assert "25.00" in out and "33.33" in out and "29.17" in out
