"""A step whose program is made ahead: once, for the arrays that it is called with."""

import logging
import re
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from dpanet_jax.training import ahead
from dpanet_jax.training.ahead import made_ahead
from dpanet_jax.training.build import batch_shapes
from dpanet_jax.training.layout import Jit
from dpanet_jax.training.state import TrainState

STATE = TrainState(
    step=np.int32(3), params={"kernel": np.ones((2, 4), np.float32)}, batch_stats={}, opt_state=()
)


def made(step, layout):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), STATE)
    batch = batch_shapes(8, (4, 2))
    return made_ahead(layout.compile(step, STATE), *layout.laid(shapes, batch), np.float32)


@pytest.fixture
def compiled(caplog):
    """The names of the programs that have been compiled, as JAX logs them."""
    jax.config.update("jax_log_compiles", True)
    with caplog.at_level(logging.WARNING, "jax"):
        yield lambda: re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
    jax.config.update("jax_log_compiles", False)


def test_it_is_the_step_and_is_traced_and_compiled_once(compiled):
    layout, traces = Jit(), []

    def step(state, batch):
        traces.append(batch["image"].shape)
        return state, {"sum": batch["image"].sum() + state.step}

    step_ahead = made(step, layout)
    ones = {name: np.ones(leaf.shape, leaf.dtype) for name, leaf in batch_shapes(8, (4, 2)).items()}
    state = layout.put_state(STATE)
    for _ in range(2):
        state, metrics = step_ahead(state, layout.put_batch(ones))
        assert metrics["sum"] == 8 * 4 * 2 * 3 + 3
    assert traces == [(8, 4, 2, 3)]
    assert compiled().count("step") == 1


def test_it_is_compiled_before_it_is_called(compiled):
    def step(state, batch):
        return state, {}

    made(step, Jit())
    _wait_until(lambda: not ahead.is_busy())
    assert compiled().count("step") == 1


def test_it_is_busy_until_it_is_made():
    may_end = threading.Event()

    def step(state, batch):
        assert may_end.wait(60)
        return state, {}

    made(step, Jit())
    assert ahead.is_busy()
    may_end.set()
    _wait_until(lambda: not ahead.is_busy())


def test_the_command_does_not_wait_for_it():
    """A verb ends while a step is made that takes an hour."""
    code = """
import runpy, sys, time
import jax
from dpanet_jax.training import ahead
step = jax.jit(lambda state, batch: time.sleep(3600))
ahead.made_ahead(step, jax.ShapeDtypeStruct((), "float32"), {}, "float32")
sys.argv = ["dpanet_jax", VERB]
runpy.run_module("dpanet_jax", run_name="__main__")
"""
    for verb, status, stream in (("--version", 0, "stdout"), ("trian", 2, "stderr")):
        command = [sys.executable, "-c", code.replace("VERB", repr(verb))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == status and "dpanet_jax" in getattr(done, stream)


def _wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_fails_there_is_raised_by_the_first_step():
    def step(state, batch):
        raise ValueError("no such layer")

    step_ahead = made(step, Jit())
    with pytest.raises(ValueError, match="no such layer"):
        step_ahead(STATE, {})
