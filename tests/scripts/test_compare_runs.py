"""scripts/compare_runs.py: evaluations side by side, and what it says of a run without one."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.evaluation.report import write_files

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_runs.py"


def compare(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_two_runs(tmp_path):
    for name, hits in (("ours", 3), ("fcn", 1)):
        counts = np.array([[hits, 4 - hits, 0], [0, 4, 0], [0, 0, 0]])
        matrix = ConfusionMatrix(3, counts)
        write_files(matrix, ["road", "car", "train"], tmp_path / name / "evaluation" / "val_whole", {})
    done = compare(tmp_path / "ours", tmp_path / "fcn")
    assert done.returncode == 0, done.stderr
    rows = {
        line.split("│")[1].strip(): line.split("│")[2:4] for line in done.stdout.splitlines() if "│" in line
    }
    assert [cell.strip() for cell in rows["road"]] == ["75.00", "25.00"]
    assert [cell.strip() for cell in rows["train"]] == ["–", "–"]
    assert [cell.strip() for cell in rows["mean IoU"]] == ["77.50", "41.07"]


def test_a_run_without_an_evaluation(tmp_path):
    done = compare(tmp_path)
    assert done.returncode == 1
    assert f"python -m dpanet_jax evaluate --workdir={tmp_path} --split=val" in done.stderr
