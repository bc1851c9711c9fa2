"""Where a run's figures and pictures go: metrics.jsonl, TensorBoard's events and pictures/."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from dpanet_jax import paths
from dpanet_jax.evaluation import figures
from dpanet_jax.training.errors import NotFinite
from dpanet_jax.training.events import Events
from dpanet_jax.training.layout import Metrics


class RunLog:
    """Writes WORKDIR/metrics.jsonl ({"step": …, name: value} lines), WORKDIR/tensorboard and /pictures.

    A run that goes on from step `step` first drops what was logged after it: those steps come again. So
    does that step's evaluation where it was not finished (`evaluated` False). With `writes` False, as in all
    processes but one, nothing is written.
    """

    def __init__(self, workdir: Path, step: int = 0, writes: bool = True, evaluated: bool = True) -> None:
        self._workdir = workdir
        self._file: TextIO | None = None
        if writes:
            path = workdir / "metrics.jsonl"
            if path.exists():
                _keep_until(path, step, evaluated)
            self._file = open(path, "a", buffering=1, encoding="utf-8")
            self._events = Events(workdir / "tensorboard", purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line and one event for each value, a float by name; not finite: null, and no event."""
        if self._file is None:
            return
        line = {name: float(value) for name, value in values.items()}
        finite = {name: value for name, value in line.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **{name: finite.get(name) for name in line}}) + "\n")
        for name, value in finite.items():
            self._events.scalar(step, name, value)

    def picture(self, step: int, name: str, picture: np.ndarray, file: str) -> None:
        """A uint8 (H, W, 3) picture: WORKDIR/pictures/FILE.png, and NAME among the events."""
        if self._file is not None:
            figures.save(picture, self._workdir / "pictures" / f"{file}.png")
            self._events.picture(step, name, picture)

    def close(self) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.close()
            self._events.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            self.close()
        except OSError:
            if kind is None:  # Else what went wrong first is what is told.
                raise


class Window:
    """The steps since the last line of the log: their means, their speed, and whether all is finite.

    `bar` is the progress bar, which counts the steps read; `batch_size` makes images a second of steps.
    """

    def __init__(self, log: RunLog, bar: Any, batch_size: int) -> None:
        self._log, self._bar, self._batch_size = log, bar, batch_size
        self._pending: tuple[int, Metrics] | None = None
        self._values: list[dict[str, float]] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """What was done since the last step, such as an evaluation, does not count in the speed."""
        self._start, self._steps = time.perf_counter(), 0

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes a step's figures and reads those of the step before.

        The device is then one step ahead of the host, never idle. Raises NotFinite for the step read.
        """
        pending, self._pending = self._pending, (step, metrics)
        self._steps += 1
        if pending:
            self._read(*pending)

    def _read(self, step: int, metrics: Metrics) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        # The gradient too: its update is already in the parameters that a checkpoint would hold.
        for name in ("loss", "grad_norm"):
            if not np.isfinite(values[name]):
                raise NotFinite(f"{name} is {values[name]} at step {step} (lr {values['lr']:.3g})")
        self._values.append(values)
        self._bar.update()

    def flush(self, step: int) -> None:
        """Waits for the device and logs the window, which ends with `step`. Raises NotFinite."""
        if self._pending:
            self._read(*self._pending)
            self._pending = None
        if not self._values:
            return
        means = {key: float(np.mean([v[key] for v in self._values])) for key in self._values[0]}
        means["lr"] = self._values[-1]["lr"]
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rate = self._steps * self._batch_size / seconds
        scalars = {f"train/{key}": value for key, value in means.items()}
        self._log.scalars(step, {**scalars, "train/images_per_second": rate})
        self._bar.set_postfix_str(
            f"loss {means['loss']:.3f}, lr {means['lr']:.2e}, {rate:.1f} images/s", refresh=False
        )
        self._values = []
        self.restart_clock()


def _keep_until(path: Path, step: int, evaluated: bool) -> None:
    """Keeps the lines up to a step, without those of its evaluation where it is to come again."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            of_evaluation = any(name.startswith("val/") for name in values)
            if values["step"] < step or (values["step"] == step and (evaluated or not of_evaluation)):
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # Half a line, of a machine that went down.
    paths.write_text(path, "".join(kept))
