"""What `scripts/benchmark` measures."""

import os
import subprocess
import sys
from pathlib import Path

_SCRIPTS = Path(__file__).resolve().parents[1]


def run_alone(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a module of this package as a program, in a process of its own; its output is kept as text."""
    places = os.pathsep.join((str(_SCRIPTS), str(_SCRIPTS.parent), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "PYTHONPATH": places.rstrip(os.pathsep), **variables}
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)
