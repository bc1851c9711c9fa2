"""Peak bytes of a training step: ours as compiled, the twin's as a process of its own has them."""

import dataclasses
import json
import sys
from typing import Any

import jax

from benchmarks import run_alone
from benchmarks.networks import NUM_CLASSES, Theirs, Work
from dpanet_jax.analysis.cost import TooLarge, compile_step


@dataclasses.dataclass(frozen=True)
class Peak:
    """Bytes on a device, None where the compiler refused, or PyTorch did not run."""

    work: str
    ours: int | None
    remat: int | None
    theirs: int | None


def peak(work: Work, with_torch: bool) -> Peak:
    """Of one device's step. PyTorch's is measured on the CPU, in float32 alone."""
    sections = work.sections
    remat = dataclasses.replace(sections, model={**sections.model, "remat": True})
    found: list[int | None] = []
    for each in (sections, remat):
        cost = compile_step(each, NUM_CLASSES, work.batch_size, jax.devices()[:1])
        found.append(None if isinstance(cost, TooLarge) else cost.memory.total)
    theirs = _of_twin(work) if with_torch and work.dtype == "float32" else None
    return Peak(work.name, found[0], found[1], theirs)


def _of_twin(work: Work) -> int | None:
    """None where the process was ended, as for want of memory."""
    arguments = json.dumps(dataclasses.asdict(work))
    done = run_alone("memory", arguments)
    return int(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def table(peaks: list[Peak]) -> str:
    """Markdown, in GB of 10⁹ bytes."""
    lines = [
        "| training step | ours | ours with remat | PyTorch, on the CPU |",
        "| --- | --- | --- | --- |",
    ]
    for each in peaks:
        cells = (each.work, *(_in_words(value) for value in (each.ours, each.remat, each.theirs)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_words(value: int | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f} GB"


def _measure_twin(work: dict[str, Any]) -> int:
    """Growth of this process's largest resident set over two steps."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    case = Theirs(Work(**work), "cpu").training().case
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    case()
    case()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


if __name__ == "__main__":
    print(_measure_twin(json.loads(sys.argv[1])))
