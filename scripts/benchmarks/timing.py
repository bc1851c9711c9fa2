"""How cases are timed: in turns, so that what slows the machine for a while slows them all."""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping

# A case: does its work once, and returns when it is done.
Case = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one turn each."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one, which a few slow turns do not move."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """The fastest one: closest to what the machine can do."""
        return min(self.seconds)


def take_turns(cases: Mapping[str, Case], rounds: int, least_seconds: float = 0.1) -> dict[str, Times]:
    """Runs each case once to warm up, and then all of them in turn, `rounds` times.

    A turn repeats a short case until `least_seconds` have passed, and counts the mean. Garbage is collected
    between the turns and not within them.
    """
    repeats = {}
    for name, case in cases.items():
        case()
        repeats[name] = max(1, round(least_seconds / max(_seconds(case), 1e-7)))
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, case in cases.items():
                count = repeats[name]
                started = time.perf_counter()
                for _ in range(count):
                    case()
                seconds[name].append((time.perf_counter() - started) / count)
                gc.collect()
    finally:
        gc.enable()
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def _seconds(case: Case) -> float:
    started = time.perf_counter()
    case()
    return time.perf_counter() - started
