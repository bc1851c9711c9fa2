"""Signals: the first is noted, the second acts, and the old handlers come back."""

import signal
import threading
from types import FrameType

import pytest

from dpanet_jax import hosts
from dpanet_jax.training.interruption import CutShort, Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_is_noted_and_the_second_acts_at_once(number: signal.Signals) -> None:
    acted = []

    def act(number: int, frame: FrameType | None) -> None:
        acted.append(signal.Signals(number).name)

    old = signal.signal(number, act)
    try:
        with Interruption() as interruption:
            assert interruption.asked() is None
            signal.raise_signal(number)
            assert interruption.asked() == number.name and not acted
            signal.raise_signal(number)
            assert acted == [number.name]
        assert signal.getsignal(number) is act
    finally:
        signal.signal(number, old)


def test_in_another_thread_signals_are_left_alone() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with Interruption() as interruption:
            seen.append((interruption.asked(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, handler)]


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As after `nohup`."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert interruption.asked() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)


def test_items_come_until_a_signal() -> None:
    seen = []
    with Interruption() as interruption, pytest.raises(CutShort):
        for item in interruption.until_noted([1, 2, 3]):
            seen.append(item)
            if item == 2:
                signal.raise_signal(signal.SIGTERM)
    assert seen == [1, 2]


def test_several_hosts_stop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Host 2 gets no signal itself: it stops by the others' vote, which it knows one item later."""
    of_others = iter([0, 0, signal.SIGTERM + 128 * 3, 0, 0])
    given = []

    class Vote:
        pending = 0

        def __call__(self, number: int) -> int:
            given.append(number)
            last, self.pending = self.pending, max(number, next(of_others))
            return last

    monkeypatch.setattr(hosts, "count", lambda: 4)
    monkeypatch.setattr(hosts, "index", lambda: 2)
    monkeypatch.setattr(hosts, "Vote", Vote)
    seen = []
    with Interruption() as interruption, pytest.raises(CutShort, match="^SIGTERM on host 3$"):
        for item in interruption.until_noted(range(9)):
            seen.append(item)
    assert seen == [0, 1, 2] and given == [0, 0, 0, 0]


def test_a_signal_here_is_given_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(hosts, "count", lambda: 4)
    monkeypatch.setattr(hosts, "index", lambda: 2)
    monkeypatch.setattr(hosts, "Vote", lambda: lambda number: given.append(number) or 0)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert interruption.asked() is None, "nobody stops before all know"
    assert given == [signal.SIGTERM + 128 * 2]
