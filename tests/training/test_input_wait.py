"""The time that the devices stood idle for input, by a clock that only the test moves."""

import threading
import time
from collections.abc import Iterator

import jax
import pytest

from dpanet_jax.training.input_wait import InputWait


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def ended(wait: InputWait, step: int) -> None:
    """Until the thread has noted that a step has ended."""
    deadline = time.monotonic() + 20
    while wait._ended[0] < step:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_wait_counts_from_the_end_of_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, end = Clock(), threading.Event()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(jax, "block_until_ready", lambda result: end.wait(20))
    wait = InputWait()

    def batches() -> Iterator[str]:
        clock.now += 3  # Nothing was started before it: the devices are idle.
        yield "first"
        clock.now += 3  # The first step takes longer.
        yield "second"
        clock.now += 1  # Both steps end here,
        end.set()
        ended(wait, 2)
        clock.now += 4  # and this is longer.
        yield "third"
        clock.now += 2  # The third has ended at once.
        yield "fourth"

    stream = batches()
    assert wait.next(stream) == ("first", 3)
    wait.started("step 1")
    assert wait.next(stream) == ("second", 0)
    wait.started("step 2")
    assert wait.next(stream) == ("third", 4)
    wait.started("step 3")
    ended(wait, 3)
    assert wait.next(stream) == ("fourth", 2)
    wait.close()


def test_a_step_that_fails_is_left_to_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(result: object) -> None:
        raise RuntimeError("out of memory")

    real = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", fail)
    wait = InputWait()
    wait.started("step 1")
    assert wait.next(iter(["a batch"])) == ("a batch", 0)
    while not wait._started.empty():
        time.sleep(0.001)
    time.sleep(0.01)
    monkeypatch.setattr(jax, "block_until_ready", real)
    wait.started(jax.numpy.zeros(1))
    ended(wait, 2)
    wait.close()
