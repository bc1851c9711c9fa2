"""How long the devices had nothing to do because the next batch was not there."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax


class InputWait:
    """Takes batches from an iterator, and measures the seconds in which the devices stood idle for one.

    A wait for a batch costs nothing while the devices still compute, so it counts from the moment at which
    the last step that was `started` has ended. A thread of its own notes that moment.
    """

    def __init__(self) -> None:
        self._started: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        self._last = 0
        # The number of the last step that has ended, and when.
        self._ended: tuple[int, float] = (0, 0.0)
        # A daemon: a step that never ends, for want of another host, must not keep the process.
        threading.Thread(target=self._note_ends, daemon=True, name="steps' ends").start()

    def started(self, result: Any) -> None:
        """A step was handed to the devices; `result` is one of its arrays."""
        self._last += 1
        self._started.put((self._last, result))

    def next(self, batches: Iterator[Any]) -> tuple[Any, float]:
        """The next batch, and the seconds that the devices stood idle for it."""
        start = time.perf_counter()
        batch = next(batches)
        end = time.perf_counter()
        number, moment = self._ended
        return batch, max(0.0, end - max(start, moment)) if number == self._last else 0.0

    def close(self) -> None:
        """Ends the thread, once the steps handed over have ended."""
        self._started.put(None)

    def _note_ends(self) -> None:
        while (item := self._started.get()) is not None:
            number, result = item
            try:
                jax.block_until_ready(result)
            except Exception:  # The thread that reads the step's figures raises it.
                continue
            self._ended = (number, time.perf_counter())
