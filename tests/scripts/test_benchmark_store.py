"""scripts/benchmark_store.py: a row a form, with what it costs in pixels, and one line of what is wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_store.py"


def run(*arguments):
    environment = {"PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=environment
    )


def test_every_form_and_its_pixels(tmp_path):
    (tmp_path / "classes.csv").write_text("name,red,green,blue\nroad,128,64,128\nsky,70,130,180\n")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, pixels in (
            ("images", rng.integers(0, 256, (24, 32, 3))),
            ("labels", rng.integers(0, 2, (24, 32))),
        ):
            (tmp_path / kind / split).mkdir(parents=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / kind / split / "0.png")
    done = run(f"--source={tmp_path}", "--forms", "raw", "jpeg:95", "jpeg:50")
    assert done.returncode == 0, done.stderr
    lines = [line.split("│") for line in done.stdout.splitlines() if "│" in line]
    rows = {cells[1].strip(): [float(cell) for cell in cells[2:6]] for cells in lines}
    assert list(rows) == ["source", "raw", "jpeg:95", "jpeg:50"]
    assert rows["source"][1:3] == rows["raw"][1:3] == [0, 0]
    assert 0 < rows["jpeg:95"][1] < rows["jpeg:50"][1] < rows["jpeg:50"][2] <= 255
    assert all(row[3] > 0 for row in rows.values())


def test_a_source_that_is_not_there(tmp_path):
    done = run(f"--source={tmp_path / 'away'}")
    assert done.returncode == 1 and "no such folder" in done.stderr and "Traceback" not in done.stderr
