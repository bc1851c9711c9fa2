"""What a run waits for besides its steps: its start, and its checkpoints."""

import json
import tempfile
from collections.abc import Iterator

import jax

from benchmarks import run_alone
from benchmarks.networks import Ours, Work
from benchmarks.report import Row
from benchmarks.timing import Times, take_turns, turn
from dpanet_jax.checkpoint import Checkpoints
from dpanet_jax.config import default_config, to_dict
from dpanet_jax.training.state import TrainState


def starts(work: Work) -> Iterator[Row]:
    """Seconds from a new process's first line to each mark of `start`, without and with compiled programs."""
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "from the compilation cache"):
            marks = _start(work, cache)
            for mark, seconds in marks.items():
                yield Row("start", f"{work.name}, {name}: {mark}", {"ours": Times((seconds,))})


def _start(work: Work, cache: str) -> dict[str, float]:
    arguments = (work.network, work.backbone, work.dtype, str(work.batch_size), str(work.size))
    done = run_alone("start", *arguments, DPANET_COMPILATION_CACHE=cache, JAX_COMPILATION_CACHE_DIR="")
    done.check_returncode()
    marks: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return marks


def checkpoints(backbone: str, rounds: int) -> Iterator[Row]:
    """A training state of DPANet saved whole, and restored to the host."""
    ours = Ours(Work("dpanet", backbone, "float32", 2 * jax.device_count(), 64))
    state = TrainState.create(ours.variables, ours.computed.optimizer).to_host()
    bytes_ = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    about = {"config": to_dict(default_config()), "classes": {}, "provenance": {}, "data": {}}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as written:
        steps = iter(range(1, 10**9))

        def save() -> None:
            written.save(state.replace(step=state.step + next(steps)), about)  # type: ignore[attr-defined]
            written.wait()

        def restore() -> None:
            written.restore(state)

        for part, case in (("checkpoint save", save), ("checkpoint restore", restore)):
            times = take_turns({"ours": turn(case)}, rounds)
            yield Row(part, f"dpanet {backbone}, {bytes_ / 1e6:.0f} MB", times, bytes_ / 1e6, "MB")
