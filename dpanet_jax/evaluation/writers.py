"""Threads that write files while the device computes."""

import concurrent.futures
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from dpanet_jax import cores

# What waits to be written stays below so many pixels, or is one image.
_MOST_PIXELS = 2**26


class Writers:
    """A pool of threads with a bounded queue. An error of a thread is raised by the next call."""

    def __init__(self, threads: int | None = None, most_pixels: int = _MOST_PIXELS) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(threads or cores.readers())
        self._most = most_pixels
        self._waiting = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def __enter__(self) -> "Writers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, pixels: int, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls `function(*arguments)` on a thread; waits while too many pixels wait already."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or not self._waiting or self._waiting + pixels <= self._most
            )
            self._raise()
            self._waiting += pixels
        self._pool.submit(self._call, pixels, function, arguments)

    def finish(self) -> None:
        """Waits until everything is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._waiting)
            self._raise()

    def _call(self, pixels: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        error: BaseException | None = None
        try:
            if self._error is None:
                function(*arguments)
        except BaseException as raised:  # Raised again by the thread that submits.
            error = raised
        with self._changed:
            self._error = self._error or error
            self._waiting -= pixels
            self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
