"""TensorBoard's event files, written in the thread that logs: what goes wrong is an error there."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

# tensorboardX's own SummaryWriter writes in a thread, which a full disk ends: it then waits for it for ever.
_SECONDS = 30  # between two flushes, each of which waits for the disk


class Events:
    """Scalars and pictures by step; TensorBoard hides those of an earlier file from `purge_step` on.

    A file's name ends with the second, the host and `suffix`.
    """

    def __init__(self, folder: Path, purge_step: int, suffix: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), suffix)
        self._write(Event(step=purge_step, file_version="brain.Event:2"))
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def scalar(self, step: int, name: str, value: float) -> None:
        """One number."""
        self._write(Event(step=step, summary=summary.scalar(name, value)))

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A uint8 (H, W, 3) picture."""
        self._write(Event(step=step, summary=summary.image(name, picture, dataformats="HWC")))

    def flush(self) -> None:
        """Until all is on the disk."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        if time.monotonic() - getattr(self, "_flushed", float("inf")) > _SECONDS:
            self.flush()
