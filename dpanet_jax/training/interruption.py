"""Signals that ask a run to stop: they are noted, and the loop stops where everything is saved.

On several hosts a signal may come to one alone, or to one a step before another. So the hosts vote at each
step, and all stop after the same one: within two steps of the first signal.
"""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any

from dpanet_jax import hosts
from dpanet_jax.errors import DPANetError

# A vote for no stop is 0, and one for a stop says by which signal of which host.
_SIGNALS = 128


class CutShort(DPANetError):
    """A signal came while something went through items that need not be finished; the text names it."""


class Interruption:
    """While it is open, the first Ctrl-C, SIGTERM or SIGHUP is noted; a second acts at once.

    A signal that the process was told to ignore, as by `nohup`, is still ignored.
    """

    def __init__(self) -> None:
        self._noted = 0  # the signal's number
        self._handlers: dict[int, Any] = {}
        self._vote = hosts.Vote() if hosts.count() > 1 else None

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._handlers[number] = signal.signal(number, self._note)
            except ValueError:
                break  # Not the main thread: signals are then somebody else's to handle.
        return self

    def asked(self) -> str | None:
        """Which signal asks the run to stop, such as "SIGTERM", or "SIGTERM on host 2"; None where none does.

        All hosts must ask equally often, and get the same answer.
        """
        noted = self._noted
        if self._vote is None:
            return signal.Signals(noted).name if noted else None
        voted = self._vote(noted and noted + _SIGNALS * hosts.index())
        host, number = divmod(voted, _SIGNALS)
        return f"{signal.Signals(number).name} on host {host}" if voted else None

    def until_noted(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items one by one, on all hosts as many; raises CutShort before the first one after a signal."""
        for item in items:
            if by := self.asked():
                raise CutShort(by)
            yield item

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        signal.signal(number, self._handlers[number])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
