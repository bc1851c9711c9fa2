"""Where a run's figures go: metrics.jsonl and TensorBoard event files."""

import json
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter


class RunLog:
    """Writes {"step": …, name: value} lines to WORKDIR/metrics.jsonl and events to WORKDIR/tensorboard.

    A run that goes on from step `step` first drops what was logged after it: those steps come again.
    """

    def __init__(self, workdir: Path, step: int = 0):
        path = workdir / "metrics.jsonl"
        if path.exists():
            _keep_until(path, step)
        self._file = open(path, "a", buffering=1)
        # The queue and the flush thread are of no use to a few scalars a second.
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def scalars(self, step: int, values: dict) -> None:
        """One line and one event for each value, a float by name."""
        line = {name: float(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **line}) + "\n")
        for name, value in line.items():
            self._events.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A uint8 (H, W, 3) picture among the events."""
        self._events.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._events.close()


def _keep_until(path: Path, step: int) -> None:
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break  # A machine that went down mid-line: nothing after it can be of an earlier step.
    temporary = path.with_suffix(".jsonl.tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
