"""How ways are timed: in turns, so that what slows the machine for a while slows them all."""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping

# A case: does its work once, and returns when it is done.
Case = Callable[[], object]
# A turn of a way: does its work, and says how many seconds it took.
Turn = Callable[[], float]


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


def turn(case: Case, least_seconds: float = 1.0) -> Turn:
    """Runs the case twice to warm up. A turn repeats a short one until `least_seconds` have passed.

    It counts the mean. It begins with one run that does not count, for in a loop of its own the work would
    find its memory and caches as it left them. Garbage is collected after the work and not within it.
    """
    case()
    started = time.perf_counter()
    case()
    repeats = max(1, round(least_seconds / max(time.perf_counter() - started, 1e-7)))

    def timed() -> float:
        case()
        gc.disable()
        try:
            started = time.perf_counter()
            for _ in range(repeats):
                case()
            return (time.perf_counter() - started) / repeats
        finally:
            gc.enable()
            gc.collect()

    return timed


def take_turns(turns: Mapping[str, Turn], rounds: int) -> dict[str, Times]:
    """Each way's turn after the other's, `rounds` times."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, each in turns.items():
            seconds[name].append(each())
    return {name: Times(tuple(values)) for name, values in seconds.items()}
