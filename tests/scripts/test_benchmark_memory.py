"""The benchmark's memory: the peak is one run's, and the table leaves out what was not measured."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from benchmarks.memory import Peak, resident_peak, table  # noqa: E402


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can set the peak back")
def test_the_peak_is_of_the_second_run_alone() -> None:
    megabytes = iter([600, 200])

    def case() -> None:
        np.ones(next(megabytes) * 10**6, np.uint8)

    status = Path("/proc/self/status").read_text()
    before = 1024 * int(status.split("VmRSS:")[1].split()[0])
    assert 150e6 < resident_peak(case) - before < 400e6
    assert not list(megabytes)


def test_the_table() -> None:
    lines = table([Peak("a network", 2_000_000_000, None, 1_234_000_000, None)]).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    assert lines[2] == "| a network | 2.00 GB |  | 1.23 GB |  |"
