"""Peak bytes of a training step: as compiled, and of processes that train, ours and the twin's."""

import dataclasses
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import jax

from benchmarks import run_alone
from benchmarks.networks import NUM_CLASSES, Ours, Theirs, Work
from dpanet_jax.analysis.cost import TooLarge, compile_step


@dataclasses.dataclass(frozen=True)
class Peak:
    """Bytes on a device; None where the compiler refused, or nothing was measured.

    compiled, remat: what the compiled step needs, without and with `remat`. ours, theirs: the peak resident
    set of a process that trains on the CPU, libraries and all.
    """

    work: str
    compiled: int | None
    remat: int | None
    ours: int | None
    theirs: int | None


def peak(work: Work, with_torch: bool) -> Peak:
    """Of one device's step. Processes are measured on the CPU, in float32 alone."""
    sections = work.sections
    remat = dataclasses.replace(sections, model={**sections.model, "remat": True})
    found: list[int | None] = []
    for each in (sections, remat):
        cost = compile_step(each, NUM_CLASSES, work.batch_size, jax.devices()[:1])
        found.append(None if isinstance(cost, TooLarge) else cost.memory.total)
    measured = work.dtype == "float32" and jax.devices()[0].platform == "cpu"
    ours = _of_process("ours", work) if measured else None
    theirs = _of_process("theirs", work) if measured and with_torch else None
    return Peak(work.name, found[0], found[1], ours, theirs)


def _of_process(whose: str, work: Work) -> int | None:
    """None where the process was ended, as for want of memory."""
    done = run_alone("memory", whose, json.dumps(dataclasses.asdict(work)))
    return int(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def table(peaks: list[Peak]) -> str:
    """Markdown, in GB of 10⁹ bytes."""
    lines = [
        "| training step | compiled | with remat | our process | PyTorch's process |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in peaks:
        work, *sizes = dataclasses.astuple(each)
        lines.append(f"| {' | '.join([work, *map(_in_words, sizes)])} |")
    return "\n".join(lines)


def _in_words(value: int | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f} GB"


def of_machine() -> int:
    """Bytes of the first device's memory; of the host's where the device has none of its own."""
    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def resident_peak(case: Callable[[], object]) -> int:
    """The largest resident set of this process during the second run of a case, in bytes.

    The first run compiles. Where the peak cannot be set back (only Linux can), it is that of both.
    """
    case()
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    case()
    if reset.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(whose: str, work: Work) -> int:
    """The peak of "ours" or of "theirs", PyTorch's."""
    step = Ours(work).training() if whose == "ours" else Theirs(work, "cpu").training()
    return resident_peak(step.case)


if __name__ == "__main__":
    print(main(sys.argv[1], Work(**json.loads(sys.argv[2]))))
