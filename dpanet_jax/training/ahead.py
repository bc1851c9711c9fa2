"""The program of the training step, written while the first weights are drawn."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dpanet_jax.models.precision import computing_in
from dpanet_jax.training.layout import Batch, Metrics, TrainStep
from dpanet_jax.training.state import TrainState


def written_ahead(train_step: Any, state: TrainState, batch: Batch, dtype: Any) -> TrainStep:
    """Begins to trace and lower what `jax.jit` returned, on a thread; the result is the same step.

    state, batch: `jax.ShapeDtypeStruct`s of what the step will be called with. dtype: that of the network.
    What fails there is raised by the first step, which waits for the thread. It does not compile: that
    cannot be interrupted, and a run that stops before its first step would wait for it.
    """

    def write() -> None:
        with computing_in(dtype):
            train_step.lower(state, batch)

    executor = ThreadPoolExecutor(1, "written_ahead")
    written = executor.submit(write)
    executor.shutdown(wait=False)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        written.result()
        result: tuple[TrainState, Metrics] = train_step(state, batch)
        return result

    return step
