"""What `scripts/benchmark` measures."""

import os
import subprocess
import sys
from pathlib import Path

from dpanet_jax import huge_pages

_SCRIPTS = Path(__file__).resolve().parents[1]


def environment(**variables: str) -> dict[str, str]:
    """That of a process that imports this package, with large pages of memory as `python -m dpanet_jax`."""
    places = os.pathsep.join((str(_SCRIPTS), str(_SCRIPTS.parent), os.environ.get("PYTHONPATH", "")))
    base = huge_pages.environment() or os.environ
    return {**base, "PYTHONPATH": places.rstrip(os.pathsep), **variables}


def run_alone(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a module of this package as a program, in a process of its own; its output is kept as text."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(command, env=environment(**variables), capture_output=True, text=True)
