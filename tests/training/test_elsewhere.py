"""Runs in float64, and runs that go on with another number of devices."""

import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from runs import lines, steps_of

import dpanet_jax
from dpanet_jax.training import loop

MakeConfig = Callable[[], ConfigDict]


def test_float64_computes_in_float64(make_config: MakeConfig, tmp_path: Path) -> None:
    """Losses have more digits than float32 holds, and every array is of the type."""
    config = make_config()
    config.model.dtype = "float64"
    config.training.steps = 3
    loop.train(config, tmp_path)
    first = [line["train/loss"] for line in lines(tmp_path) if "train/loss" in line]
    assert all(float(np.float32(loss)) != loss for loss in first)
    model = dpanet_jax.load(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.variables)} == {np.dtype(np.float64)}
    on_devices = jax.tree.leaves(model.device_variables)
    assert {leaf.dtype for leaf in on_devices} == {np.dtype(np.float64)}
    assert jax.numpy.ones(1).dtype == np.float32, "the process is as it was"
    image = np.random.default_rng(0).integers(0, 255, (64, 128, 3)).astype(np.uint8)
    assert model.predict(image).shape == (64, 128)
    before = lines(tmp_path)
    loop.train(config, tmp_path)
    assert lines(tmp_path) == before


SCRIPT = """
import sys, os, signal
from dpanet_jax.config import default_config
from dpanet_jax.training import loop
config = default_config()
config.update_from_flattened_dict(dict(eval(sys.argv[2])))
loop.train(config, sys.argv[1])
"""


# The numbers, and other moves, are held by `scripts/hosts_check`.
@pytest.mark.parametrize(("first", "second", "parallelism"), [(8, 1, "jit"), (1, 8, "pmap")])
def test_a_run_goes_on_with_another_number_of_devices(
    streets_dir: Path, tmp_path: Path, first: int, second: int, parallelism: str
) -> None:
    values = {
        "data.data_dir": str(streets_dir),
        "data.crop_size": (32, 32),
        "data.base_size": 128,
        "model.name": "fcn",
        "model.backbone": "resnet18",
        "model.width": 8,
        "training.epochs": 0,
        "evaluation.batch_size": 2,
        "evaluation.every_epochs": 3,
        "log_every_steps": 1,
        "pictures": 0,
        "parallelism": parallelism,
    }
    for devices in (first, second):
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
        environment = {**os.environ, "XLA_FLAGS": flags}
        argv = [sys.executable, "-c", SCRIPT, str(tmp_path), repr({**values, "training.steps": 6})]
        if devices == first:
            argv[2] = STOP + SCRIPT
        done = subprocess.run(argv, env=environment, capture_output=True, text=True)
        assert (done.returncode == 0) == (devices == second), done.stderr[-2000:]
        assert steps_of(tmp_path)[-1] == (3 if devices == first else 6), done.stderr[-2000:]
    losses = [line["train/loss"] for line in lines(tmp_path) if "train/loss" in line]
    assert len(losses) == 6 and all(map(math.isfinite, losses))


STOP = """
from dpanet_jax.training.build import Parts
is_logged = Parts.is_logged
def stop_at_four(self, step):
    if step == 4:
        raise SystemExit("stopped")
    return is_logged(self, step)
Parts.is_logged = stop_at_four
"""


def test_a_run_leaves_the_processs_warnings_as_they_were(make_config: MakeConfig, tmp_path: Path) -> None:
    before = list(warnings.filters)
    loop.train(make_config(), tmp_path)
    assert list(warnings.filters) == before
