"""Where a run's figures and pictures go: metrics.jsonl, TensorBoard's events and pictures/."""

import json
import math
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from dpanet_jax import paths
from dpanet_jax.evaluation import figures
from dpanet_jax.training.errors import NotFinite, TrainingError
from dpanet_jax.training.events import Events
from dpanet_jax.training.layout import Metrics
from dpanet_jax.training.upload import LogUpload

# Bytes from which on a file of events that is uploaded is followed by a new one.
_LARGE = 2**23

# Steps whose figures are read in one transfer.
READ_TOGETHER = 4

# The share of a window's time, idle for input, from which on a hint is worth a line, and the seconds that
# make a window telling.
_LARGE_WAIT, _TELLING = 0.3, 1.0


class RunLog:
    """Writes WORKDIR/metrics.jsonl ({"step": …, name: value} lines), WORKDIR/tensorboard and /pictures.

    A run that goes on from step `step` first drops what was logged after it: those steps come again. So
    does that step's evaluation where it was not finished (`evaluated` False). With `writes` False, as in all
    processes but one, nothing is written. The log of a workdir in a bucket is there after `sync`, which also
    happens now and then; `may_write` is what `LogUpload` takes.
    """

    def __init__(
        self,
        workdir: paths.AnyPath,
        step: int = 0,
        writes: bool = True,
        evaluated: bool = True,
        may_write: Callable[[], object] = lambda: None,
    ) -> None:
        self._workdir = workdir
        self._file: TextIO | None = None
        self._upload: LogUpload | None = None
        if writes:
            if isinstance(workdir, paths.Remote):
                self._upload = LogUpload(workdir, may_write)
                workdir = self._upload.folder
            path = workdir / "metrics.jsonl"
            if path.exists():
                _keep_until(path, step, evaluated)
            self._file = open(path, "a", buffering=1, encoding="utf-8")
            self._begin_events(workdir / "tensorboard", step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line and one event for each value, a float by name; not finite: null, and no event."""
        if self._file is None:
            return
        line = {name: float(value) for name, value in values.items()}
        finite = {name: value for name, value in line.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **{name: finite.get(name) for name in line}}) + "\n")
        for name, value in finite.items():
            self._events.scalar(step, name, value)
        if self._upload and self._upload.is_due:
            self.sync()
            if self._upload.size_of_newest("tensorboard") > _LARGE:
                self._events.close()
                self._begin_events(self._upload.folder / "tensorboard", step)

    def _begin_events(self, folder: Path, step: int) -> None:
        # Where the earlier files are not seen, a run that goes on at once must not take the name of one.
        suffix = f".{uuid.uuid4().hex[:8]}" if self._upload else ""
        self._events = Events(folder, step + 1, suffix)

    def sync(self) -> None:
        """Until what was logged is in a workdir in a bucket, too: before each checkpoint, for one."""
        if self._upload:
            self._events.flush()
            self._upload.upload()

    def picture(self, step: int, name: str, picture: np.ndarray, file: str) -> None:
        """A uint8 (H, W, 3) picture: WORKDIR/pictures/FILE.png, and NAME among the events."""
        if self._file is not None:
            figures.save(picture, self._workdir / "pictures" / f"{file}.png")
            self._events.picture(step, name, picture)

    def close(self) -> None:
        """Closes the files, and uploads them where the workdir is in a bucket."""
        if self._file is None:
            return
        self._file.close()
        self._events.close()
        if self._upload:
            try:
                self._upload.upload()
            finally:
                self._upload.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            self.close()
        except (OSError, TrainingError):
            if kind is None:  # Else what went wrong first is what is told.
                raise


class Window:
    """The steps since the last line of the log: their means, their speed, and whether all is finite.

    `bar` is the progress bar, which counts the steps read; `batch_size` makes images a second of steps.
    `hint` is called once, with the share, where the devices stood idle for input in a large part of a window.
    """

    def __init__(
        self, log: RunLog, bar: Any, batch_size: int, hint: Callable[[float], object] = lambda share: None
    ) -> None:
        self._log, self._bar, self._batch_size, self._hint = log, bar, batch_size, hint
        self._pending: list[tuple[int, Metrics]] = []
        self._values: list[dict[str, float]] = []
        self._is_first, self._hinted = True, False
        self.restart_clock()

    def restart_clock(self) -> None:
        """What was done since the last step, such as an evaluation, does not count in the speed."""
        self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0

    def add(self, step: int, metrics: Metrics, waited: float = 0.0) -> None:
        """Takes a step's figures, and the seconds that the devices stood idle for its batch.

        It waits for the step before this one: the devices are one step ahead of the host, never idle, and a
        signal finds no more than that to wait for. Figures are read READ_TOGETHER steps at a time, in one
        transfer. Raises NotFinite for a step read.
        """
        self._pending.append((step, metrics))
        jax.block_until_ready([figures for _, figures in self._pending[-2:-1]])
        self._steps += 1
        self._waited += waited
        if len(self._pending) == 2 * READ_TOGETHER:
            self._read(READ_TOGETHER)

    def _read(self, count: int) -> None:
        """Reads the oldest `count` steps that wait for it."""
        oldest, self._pending = self._pending[:count], self._pending[count:]
        for (step, _), metrics in zip(oldest, jax.device_get([m for _, m in oldest]), strict=True):
            values = {name: float(value) for name, value in metrics.items()}
            # The gradient too: its update is already in the parameters that a checkpoint would hold.
            for name in ("loss", "grad_norm"):
                if not np.isfinite(values[name]):
                    raise NotFinite(f"{name} is {values[name]} at step {step} (lr {values['lr']:.3g})")
            self._values.append(values)
            self._bar.update()

    def flush(self, step: int) -> None:
        """Waits for the devices and logs the window, which ends with `step`. Raises NotFinite."""
        self._read(len(self._pending))
        if not self._values:
            return
        means = {key: float(np.mean([v[key] for v in self._values])) for key in self._values[0]}
        means["lr"] = self._values[-1]["lr"]
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rate = self._steps * self._batch_size / seconds
        share = min(1.0, self._waited / seconds)
        scalars = {f"train/{key}": value for key, value in means.items()}
        self._log.scalars(step, {**scalars, "train/images_per_second": rate, "train/input_wait": share})
        self._bar.set_postfix_str(
            f"loss {means['loss']:.3f}, lr {means['lr']:.2e}, {rate:.1f} images/s, input {share:.0%}",
            refresh=False,
        )
        # The first window holds what happens once: reading begins, the step is compiled.
        if share > _LARGE_WAIT and seconds > _TELLING and not self._is_first and not self._hinted:
            self._hinted = True
            self._hint(share)
        self._values, self._is_first = [], False
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
