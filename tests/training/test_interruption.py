"""Signals: the first is noted, the second acts, and the old handlers come back."""

import signal
import threading
from types import FrameType

import pytest

from dpanet_jax.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_noted_and_the_second_acts_at_once(number: signal.Signals) -> None:
    acted = []

    def act(number: int, frame: FrameType | None) -> None:
        acted.append(signal.Signals(number).name)

    old = signal.signal(number, act)
    try:
        with Interruption() as interruption:
            assert interruption.signal is None
            signal.raise_signal(number)
            assert interruption.signal == number.name and not acted
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
            seen.append((interruption.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, handler)]
