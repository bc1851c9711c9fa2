"""Checkpoints are whole or not there; which are kept, and what is said of those that cannot be read."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax import checkpoint
from dpanet_jax.checkpoint import CheckpointError, Checkpoints
from dpanet_jax.errors import UsageError
from dpanet_jax.training.state import TrainState

ABOUT = {"config": {"seed": 1}, "provenance": {"version": "9.9.9", "commit": "abc"}}


def state(step: int, size: int = 3) -> TrainState:
    return TrainState(np.int32(step), {"w": np.full(size, step, np.float32)}, {}, {"m": np.zeros(2)})


def folders(workdir: Path) -> list[str]:
    return sorted(p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    """Scores that fall after the second, one step without any, and a resume: the best and the last stay."""

    def save(scores: list[tuple[int, float | None]]) -> list[str]:
        with Checkpoints(tmp_path) as manager:
            for step, score in scores:
                manager.save(state(step), ABOUT, score)
        return folders(tmp_path)

    assert save([(1, 0.2), (2, 0.9), (3, 0.5), (4, None)]) == ["2", "4"]
    assert checkpoint.find(tmp_path).name == "2"
    assert save([(5, 0.6), (6, 0.8)]) == ["2", "6"]
    assert checkpoint.find(tmp_path).name == "2"
    assert checkpoint.find(tmp_path, "latest").name == "6"
    assert checkpoint.find(tmp_path / "checkpoints" / "6").name == "6"
    with pytest.raises(CheckpointError, match="no checkpoint '7'; there is best, latest, 2, 6"):
        checkpoint.find(tmp_path, "7")


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    """bfloat16, scalars and a network without batch statistics too; a step is saved once."""
    params = {"a": {"w": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)}, "b": jnp.float32(2.5)}
    saved = TrainState(jnp.int32(3), params, {}, ({"m": jnp.ones(2)}, ()))
    with Checkpoints(tmp_path) as manager:
        assert manager.latest is None
        manager.save(saved, ABOUT, 0.5)
        manager.save(saved.replace(params=jax.tree.map(jnp.zeros_like, params)), ABOUT, 0.9)
        manager.wait()
        restored = manager.restore(saved)
    assert restored.step == 3 and restored.about == ABOUT
    assert jax.tree.structure(restored.opt_state) == jax.tree.structure(saved.opt_state)
    ours, theirs = (restored.variables, restored.opt_state), (saved.variables, saved.opt_state)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert restored.variables["params"]["a"]["w"].dtype == jnp.bfloat16
    folder = checkpoint.find(tmp_path)
    assert checkpoint.load_about(folder) == ABOUT
    loaded = checkpoint.load_variables(folder, jax.device_get(saved.variables))
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], params)


WRITER = """
import sys
import numpy as np
from dpanet_jax.checkpoint import Checkpoints
from dpanet_jax.training.state import TrainState

def state(step):
    rng = np.random.default_rng(step)  # What cannot be compressed takes its time to be written.
    params = {str(i): rng.random((1024, 1024)).astype(np.float32) for i in range(40)}
    return TrainState(np.int32(step), params, {}, {"m": np.full(2, step, np.float32)})

manager = Checkpoints(sys.argv[1], keep_latest=2)
manager.save(state(1), {"config": {"step": 1}}, 0.5)
manager.wait()
print("saved", flush=True)
sys.stdin.readline()
manager.save(state(2), {"config": {"step": 2}}, 0.9)
manager.close()
print("unexpected: the second save was not interrupted", flush=True)
"""


def test_a_save_that_is_cut_short_leaves_no_checkpoint(tmp_path: Path) -> None:
    """The process is killed when the first bytes of its second checkpoint are on the disk."""
    folder = tmp_path / "checkpoints"
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin and writer.stdout
        assert writer.stdout.readline() == "saved\n"
        before = set(folder.rglob("*"))
        writer.stdin.write("go on\n")
        writer.stdin.flush()
        deadline = time.monotonic() + 60
        while not any(p.is_file() for p in set(folder.rglob("*")) - before):
            assert time.monotonic() < deadline and writer.poll() is None
        writer.kill()
        assert writer.stdout.read() == ""
    assert set(folder.rglob("*")) - before, "something was written, and is left"
    assert folders(tmp_path) == ["1"]
    assert checkpoint.find(tmp_path, "best").name == checkpoint.find(tmp_path, "latest").name == "1"
    like = TrainState(
        np.int32(0),
        {str(i): np.zeros((1024, 1024), np.float32) for i in range(40)},
        {},
        {"m": np.zeros(2, "f")},
    )
    with Checkpoints(tmp_path) as manager:
        assert manager.latest == 1
        restored = manager.restore(like)
        assert restored.about["config"] == {"step": 1}
        np.testing.assert_array_equal(restored.opt_state["m"], [1, 1])
        # What is left does not stand in the way of the same step.
        manager.save(like.replace(step=np.int32(2)), {"config": {}})
        manager.wait()
        assert manager.latest == 2


def test_a_save_that_fails_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The JSON part cannot be written, when the arrays may have been."""
    with Checkpoints(tmp_path) as manager:
        manager.save(state(1), ABOUT, 0.5)
        manager.wait()
        about: dict[str, Any] = {"config": object()}
        with pytest.raises(TypeError, match="not JSON serializable"):
            manager.save(state(2), about, 0.9)
            manager.wait()
    assert folders(tmp_path) == ["1"]
    assert checkpoint.find(tmp_path).name == "1"


def test_one_of_another_structure_says_who_wrote_it(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as manager:
        with pytest.raises(CheckpointError, match="no checkpoint has been written yet"):
            manager.restore(state(0))
        manager.save(state(1), ABOUT)
        manager.wait()
        who = re.escape("1: was written by dpanet_jax 9.9.9 (commit abc), ")
        with pytest.raises(
            CheckpointError, match=who + r".*\['w'\] is of shape \(3,\) there, and \(4,\) here"
        ):
            manager.restore(state(0, size=4))
        other = TrainState(np.int32(0), {"another": np.zeros(3, np.float32)}, {}, {"m": np.zeros(2)})
        with pytest.raises(CheckpointError, match=who + "and no run can go on from it here .*another"):
            manager.restore(other)
    with pytest.raises(CheckpointError, match=r"its model cannot be read .*\(3,\) there, and \(4,\) here"):
        checkpoint.load_variables(checkpoint.find(tmp_path), state(0, size=4).variables)
    assert checkpoint.written_by({"config": {}}) == "an earlier version of dpanet_jax"


def test_what_is_no_workdir(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a workdir"):
        checkpoint.find(tmp_path)
    with pytest.raises(UsageError, match="gs://bucket/run: only local paths"):
        checkpoint.find("gs://bucket/run")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint has been written yet"):
        checkpoint.find(tmp_path)
    (tmp_path / "about").mkdir()
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.load_about(tmp_path)
