"""Each way to do a work is a process of its own, which waits while the others take their turns.

In one process they would share its memory and threads.
"""

import contextlib
import dataclasses
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks import environment
from benchmarks.timing import Case, Times, take_turns, turn


@dataclasses.dataclass(frozen=True)
class Measurable:
    """A case, and the operations of its convolutions and matrix products (None: not counted)."""

    case: Case
    flops: float | None = None


@dataclasses.dataclass(frozen=True)
class Way:
    """`function` of the module `benchmarks.MODULE` makes a `Measurable` of the arguments; JSON holds them."""

    module: str
    function: str
    arguments: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The times of the ways that could run, and the operations that the first of them counted."""

    times: dict[str, Times]
    flops: float | None


def measure(
    ways: Mapping[str, Way], rounds: int, least_seconds: float, tell: Callable[[str], object]
) -> Measured | None:
    """Starts a process for each way and lets them take turns; None where the first cannot run.

    `least_seconds` is that of `timing.turn`. What another way says when it cannot run is told in one line,
    and it is left out.
    """
    with contextlib.ExitStack() as stack:
        processes: dict[str, _Process] = {}
        for name, way in ways.items():
            process = stack.enter_context(_started(way, least_seconds))
            if process.ready():
                processes[name] = process
                continue
            tell(f"{name} cannot run: {process.last_words}")
            if not processes:
                return None
        times = take_turns({name: process.turn for name, process in processes.items()}, rounds)
        return Measured(times, next(iter(processes.values())).flops)


class _Process:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.flops: float | None = None
        self.last_words = ""

    def ready(self) -> bool:
        """Waits until it is warm. Not every line is its answer: libraries print too."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                self.flops = json.loads(line)["flops"]
                return True
            self.last_words = line.strip() or self.last_words
        return False

    def turn(self) -> float:
        """Seconds of one turn. Raises RuntimeError where the process ends in it."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("turn\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                return float(line)
            self.last_words = line.strip() or self.last_words
        raise RuntimeError(f"a way ended in its turn: {self.last_words}")


@contextlib.contextmanager
def _started(way: Way, least_seconds: float) -> Iterator[_Process]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ways", json.dumps(dataclasses.asdict(way)), str(least_seconds)],
        # Several processes share a GPU: none may take most of its memory.
        env=environment(XLA_PYTHON_CLIENT_PREALLOCATE="false"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield _Process(process)
    finally:
        assert process.stdin and process.stdout
        process.stdin.close()  # It ends when nothing more is asked of it.
        process.stdout.read()
        process.stdout.close()
        process.wait()


def _serve(way: Way, least_seconds: float) -> None:
    module = importlib.import_module(f"benchmarks.{way.module}")
    measurable = getattr(module, way.function)(**way.arguments)
    take = turn(measurable.case, least_seconds)
    print(json.dumps({"flops": measurable.flops}), flush=True)
    for _ in sys.stdin:
        print(take(), flush=True)


if __name__ == "__main__":
    _serve(Way(**json.loads(sys.argv[1])), float(sys.argv[2]))
