"""A step whose program is written ahead: once, for the arrays that it is called with."""

import jax
import numpy as np
import pytest

from dpanet_jax.training.ahead import written_ahead
from dpanet_jax.training.build import batch_shapes
from dpanet_jax.training.layout import Jit
from dpanet_jax.training.state import TrainState

STATE = TrainState(
    step=np.int32(3), params={"kernel": np.ones((2, 4), np.float32)}, batch_stats={}, opt_state=()
)


def written(step, layout):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), STATE)
    batch = batch_shapes(8, (4, 2))
    return written_ahead(layout.compile(step, STATE), *layout.laid(shapes, batch), np.float32)


def test_it_is_the_step_and_is_traced_once():
    layout, traces = Jit(), []

    def step(state, batch):
        traces.append(batch["image"].shape)
        return state, {"sum": batch["image"].sum() + state.step}

    ahead = written(step, layout)
    ones = {name: np.ones(leaf.shape, leaf.dtype) for name, leaf in batch_shapes(8, (4, 2)).items()}
    state = layout.put_state(STATE)
    for _ in range(2):
        state, metrics = ahead(state, layout.put_batch(ones))
        assert metrics["sum"] == 8 * 4 * 2 * 3 + 3
    assert traces == [(8, 4, 2, 3)]


def test_what_fails_there_is_raised_by_the_first_step():
    def step(state, batch):
        raise ValueError("no such layer")

    ahead = written(step, Jit())
    with pytest.raises(ValueError, match="no such layer"):
        ahead(STATE, {})
