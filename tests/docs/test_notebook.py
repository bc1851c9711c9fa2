"""The notebook runs from its first cell to its last, and learns what it is shown."""

import os
import subprocess
import sys
from pathlib import Path

CHECKS = """
assert prepared.splits == {"train": 64, "val": 8}
assert numbers["mean_iou"] > 0.6, numbers["mean_iou"]
assert class_ids.shape == (128, 192) and set(np.unique(class_ids)) == {0, 1, 2}
assert np.allclose(shares.sum(axis=-1), 1, atol=1e-5) and (shares.argmax(axis=-1) == class_ids).all()
assert len(result.kept) == 3
"""


def test_the_notebook_runs(root: Path, notebook: dict[str, list[str]], tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join([*notebook["code"], CHECKS]), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}
    environment.pop("XLA_FLAGS", None)  # Eight simulated devices and slow code are for the other tests.
    command = [sys.executable, str(script)]
    outcome = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
