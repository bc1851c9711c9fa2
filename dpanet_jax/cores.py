"""How many processor cores this process may use."""

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable() -> int:
    """The cores that this process may run on, and that its container's limit of processor time amounts to.

    At least 1. Python's own PYTHON_CPU_COUNT is kept to where Python is 3.13 or newer.
    """
    if hasattr(os, "process_cpu_count"):
        allowed = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count()
    limit = _limit(_CGROUPS)
    return max(1, min(allowed or 1, allowed or 1 if limit is None else int(limit)))


def readers() -> int:
    """How many threads of this process read images while a network computes: one a core, at most 8.

    Python's lock lets few more than that work at once.
    """
    return min(8, usable())


def _limit(folder: Path) -> float | None:
    """Cores' worth of time that a control group allows, of version 2 or 1; None where it sets no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (
                (folder / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # "max", or a system without control groups.
        return None
