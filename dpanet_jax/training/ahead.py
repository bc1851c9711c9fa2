"""The program of the training step, made while the first weights are drawn or a checkpoint is read."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dpanet_jax.models.precision import computing_in
from dpanet_jax.training.layout import Batch, Metrics, TrainStep
from dpanet_jax.training.state import TrainState

_begun: list["Future[None]"] = []


def made_ahead(train_step: Any, state: TrainState, batch: Batch, dtype: Any) -> TrainStep:
    """Begins to trace and compile what `jax.jit` returned, on a thread; the result is the same step.

    state, batch: `jax.ShapeDtypeStruct`s of what the step will be called with. dtype: that of the network.
    What fails there is raised by the first step, which waits for the thread. So does a process that ends
    before its first step, as a program of your own that calls `train`, unless it asks `is_busy`.
    """

    def make() -> None:
        with computing_in(dtype):
            # A call with such arrays takes the program from here: JAX keeps what it lowered, compiled.
            train_step.lower(state, batch).compile()

    executor = ThreadPoolExecutor(1, "made_ahead")
    made = executor.submit(make)
    executor.shutdown(wait=False)
    _begun[:] = [*(each for each in _begun if not each.done()), made]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        made.result()
        result: tuple[TrainState, Metrics] = train_step(state, batch)
        return result

    return step


def is_busy() -> bool:
    """Whether a step is still being made: the interpreter would wait for it, minutes for a large network."""
    return any(not each.done() for each in _begun)
