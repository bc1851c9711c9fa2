"""Signals that ask a run to stop: they are noted, and the loop stops where everything is saved."""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any

from dpanet_jax.errors import DPANetError


class CutShort(DPANetError):
    """A signal came while something went through items that need not be finished."""


class Interruption:
    """While it is open, the first Ctrl-C, SIGTERM or SIGHUP is noted in `signal`; a second acts at once.

    A signal that the process was told to ignore, as by `nohup`, is still ignored.
    """

    def __init__(self) -> None:
        self.signal: str | None = None  # such as "SIGTERM"
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._handlers[number] = signal.signal(number, self._note)
            except ValueError:
                break  # Not the main thread: signals are then somebody else's to handle.
        return self

    def until_noted(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items one by one; raises CutShort before the first one after a signal."""
        for item in items:
            if self.signal:
                raise CutShort
            yield item

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        signal.signal(number, self._handlers[number])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
