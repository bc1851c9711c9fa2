"""One start of a training step, timed from within: run as a program, it prints its marks as JSON.

    python -m benchmarks.start WORK [DEVICE MODE]

WORK is a `Work` as JSON. Marks are seconds since the process began: "import", "built" (network, weights and
optimizer are made), "traced", "compiled", and "stepped" (the first step's loss is known). With DEVICE ("cpu"
or "cuda") and MODE (of `Theirs.MODES`) it is the twin's start, which has the first two marks and the last.
"""

import json
import sys
import time
from collections.abc import Callable

_STARTED = time.perf_counter()

Mark = Callable[[str], None]


def ours(work: str, mark: Mark) -> None:
    """This package's, by its own parts: nothing overlaps, as it does in `train`."""
    import jax

    from benchmarks.networks import Ours, Work
    from dpanet_jax import compilation_cache
    from dpanet_jax.training.state import TrainState

    compilation_cache.enable()
    mark("import")
    made = Ours(Work(**json.loads(work)))
    state = TrainState.create(made.variables, made.computed.optimizer).to_host()
    mark("built")
    step = made.layout.compile(made.computed.train_step, state)
    arguments = made.layout.put_state(state), made.layout.put_batch(made.work.batch())
    lowered = step.lower(*arguments)  # type: ignore[attr-defined]
    mark("traced")
    compiled = lowered.compile()
    mark("compiled")
    jax.block_until_ready(compiled(*arguments))
    mark("stepped")


def theirs(work: str, device: str, mode: str, mark: Mark) -> None:
    """The twin's."""
    import torch  # noqa: F401

    from benchmarks.networks import Theirs, Work
    from dpanet_jax.interop import twin  # noqa: F401

    mark("import")
    case = Theirs(Work(**json.loads(work)), device, **Theirs.MODES[mode]).training().case
    mark("built")
    case()
    mark("stepped")


if __name__ == "__main__":
    marks: dict[str, float] = {}

    def keep(name: str) -> None:
        marks[name] = time.perf_counter() - _STARTED

    work, *of_twin = sys.argv[1:]
    if of_twin:
        device, mode = of_twin
        theirs(work, device, mode, keep)
    else:
        ours(work, keep)
    print(json.dumps(marks))
