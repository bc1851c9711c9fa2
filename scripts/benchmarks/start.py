"""One start of a training run, timed from within: run as a program, it prints its marks as JSON.

    python -m benchmarks.start NETWORK BACKBONE DTYPE BATCH_SIZE SIZE

Marks are seconds since the process began: "import", "built" (the parts are made), "traced", "compiled", and
"stepped" (the first step's loss is known).
"""

import json
import sys
import time

_STARTED = time.perf_counter()

if __name__ == "__main__":
    import jax

    from benchmarks.networks import Ours, Work
    from dpanet_jax import compilation_cache
    from dpanet_jax.training.state import TrainState

    compilation_cache.enable()

    marks = {"import": time.perf_counter() - _STARTED}

    def mark(name: str) -> None:
        marks[name] = time.perf_counter() - _STARTED

    network, backbone, dtype, batch_size, size = sys.argv[1:]
    work = Work(network, backbone, dtype, int(batch_size), int(size))
    ours = Ours(work)
    state = TrainState.create(ours.variables, ours.computed.optimizer).to_host()
    mark("built")
    step = ours.layout.compile(ours.computed.train_step, state)
    arguments = ours.layout.put_state(state), ours.layout.put_batch(work.batch())
    lowered = step.lower(*arguments)  # type: ignore[attr-defined]
    mark("traced")
    compiled = lowered.compile()
    mark("compiled")
    jax.block_until_ready(compiled(*arguments))
    mark("stepped")
    print(json.dumps(marks))
