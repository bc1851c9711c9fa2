"""Checkpoints are whole or not there; which are kept, and what is said of those that cannot be read."""

import errno
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dpanet_jax import checkpoint
from dpanet_jax import config as config_lib
from dpanet_jax.checkpoint import CheckpointError, Checkpoints
from dpanet_jax.errors import UsageError
from dpanet_jax.training.state import TrainState

ABOUT = {"config": {"seed": 1}, "classes": {}, "provenance": {"version": "9.9.9", "commit": "abc"}}
MEASURED = {"evaluation.absent": "exclude"}
SIZE = 3000


def state(step: int, size: int = 3) -> TrainState:
    """Its numbers are of the step alone, and do not compress."""
    params = {"w": np.random.default_rng(step).random(size).astype(np.float32)}
    return TrainState(np.int32(step), params, {}, {"m": np.zeros(2)})


def folders(workdir: Path) -> list[str]:
    return sorted(p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    """Scores that fall after the second, one step without any, and a resume: the best and the last stay."""

    def save(scores: list[tuple[int, float | None]]) -> list[str]:
        with Checkpoints(tmp_path) as manager:
            for step, score in scores:
                manager.save(state(step), ABOUT)
                if score is not None:
                    manager.add_score(step, score, MEASURED)
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
        manager.save(saved, ABOUT)
        manager.save(saved.replace(params=jax.tree.map(jnp.zeros_like, params)), ABOUT)
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
manager.save(state(1), {"config": {"step": 1}, "classes": {}})
manager.wait()
print("saved", flush=True)
sys.stdin.readline()
manager.save(state(2), {"config": {"step": 2}, "classes": {}})
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
        manager.save(like.replace(step=np.int32(2)), {"config": {}, "classes": {}})
        manager.wait()
        assert manager.latest == 2


@pytest.mark.parametrize("removable", [True, False])
def test_a_save_that_fails_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removable: bool
) -> None:
    """The disk is full when the arrays may have been written already: an error of one line, and no rest.

    Also where a thread that still writes keeps the folder from being removed at first.
    """
    remove = shutil.rmtree

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoints(tmp_path) as manager:
        manager.save(state(1), ABOUT)
        manager.wait()
        monkeypatch.setattr(ocp.JsonCheckpointHandler, "finalize", full)
        words = r"the checkpoint of step 2 could not be written \(.*No space left.*that of step 1 is intact"
        monkeypatch.setattr(shutil, "rmtree", remove if removable else lambda *_, **__: None)
        with pytest.raises(CheckpointError, match=words) as error:
            manager.save(state(2), ABOUT)
            manager.wait()
        assert "\n" not in str(error.value)
        monkeypatch.setattr(shutil, "rmtree", remove)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert checkpoint.find(tmp_path).name == "1"


def test_one_of_another_structure_says_who_wrote_it(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as manager:
        with pytest.raises(CheckpointError, match="no checkpoint has been written yet"):
            manager.restore(state(0))
        manager.save(state(1), ABOUT)
        manager.wait()
        who = re.escape("1: was written by dpanet_jax 9.9.9 (commit abc), ")
        with pytest.raises(
            CheckpointError, match=who + r".*model/params/w is of shape \(3,\) there, and \(4,\) here"
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
    with pytest.raises(UsageError, match="az://bucket/run: only local paths"):
        checkpoint.find("az://bucket/run")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint has been written yet"):
        checkpoint.find(tmp_path)
    (tmp_path / "about").mkdir()
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.load_about(tmp_path)
    with pytest.raises(CheckpointError, match="checkpoints/7: there is no such checkpoint"):
        checkpoint.find(tmp_path / "checkpoints" / "7")


def test_one_of_an_earlier_version_is_read_whatever_devices_it_names(tmp_path: Path) -> None:
    """It held arrays with their layout on eight devices, and no checksums."""
    mesh = jax.make_mesh((8,), ("data",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    old = jax.device_put(state(4, SIZE), whole)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        writer.save(
            tmp_path / "checkpoints" / "4",
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(old.variables),
                optimizer=ocp.args.StandardSave(old.opt_state),
                about=ocp.args.JsonSave(ABOUT),
            ),
        )
    with Checkpoints(tmp_path) as manager:
        restored = manager.restore(state(0, SIZE))
    leaves = jax.tree.leaves((restored.variables, restored.opt_state))
    assert {type(leaf) for leaf in leaves} == {np.ndarray}
    jax.tree.map(np.testing.assert_array_equal, restored.variables, state(4, SIZE).variables)


# ---- Scores


def saved(workdir: Path, *steps: int, **options: Any) -> Checkpoints:
    """Checkpoints of these steps, all kept."""
    manager = Checkpoints(workdir, **{"keep_latest": 10, **options})
    for step in steps:
        manager.save(state(step, size=SIZE), ABOUT)
    manager.wait()
    return manager


def test_a_score_that_is_not_a_number_never_displaces_one(tmp_path: Path) -> None:
    with saved(tmp_path, 1, 2, 3, keep_latest=1) as manager:
        pass
    with Checkpoints(tmp_path) as manager:
        for step, score in ((4, 0.4), (5, float("nan")), (6, 0.2), (7, float("nan"))):
            manager.save(state(step), ABOUT)
            manager.add_score(step, score, MEASURED if step < 7 else {"evaluation.absent": "zero"})
    assert folders(tmp_path) == ["4", "7"]
    assert checkpoint.find(tmp_path).name == "4"
    assert (
        json.loads((tmp_path / "checkpoints" / "7" / "metrics" / "metrics").read_text())["mean_iou"] is None
    )


def test_scores_are_compared_like_with_like(tmp_path: Path) -> None:
    """Measured in another way, a higher score of before is not the best any more."""
    with Checkpoints(tmp_path, keep_latest=1) as manager:
        manager.save(state(1), ABOUT)
        manager.add_score(1, 0.9, {"evaluation.absent": "exclude"})
        manager.save(state(2), ABOUT)
        manager.wait()
        assert folders(tmp_path) == ["1", "2"] and checkpoint.find(tmp_path).name == "1"
        manager.add_score(2, 0.3, {"evaluation.absent": "zero"})
        manager.save(state(3), ABOUT)
        manager.add_score(3, 0.2, {"evaluation.absent": "zero"})
    assert folders(tmp_path) == ["2", "3"] and checkpoint.find(tmp_path).name == "2"


def test_a_score_that_cannot_be_read_is_kept_and_is_not_the_best(tmp_path: Path) -> None:
    with saved(tmp_path, 1, 2, 3) as manager:
        for step, score in ((1, 0.5), (2, 0.9), (3, 0.1)):
            manager.add_score(step, score, MEASURED)
    file = tmp_path / "checkpoints" / "2" / "metrics" / "metrics"
    file.write_text(file.read_text().replace("0.9", "0.8"))
    assert checkpoint.read_score(tmp_path / "checkpoints" / "2") is None
    assert checkpoint.find(tmp_path).name == "1"
    with Checkpoints(tmp_path) as manager:
        assert manager.has_score(3) and not manager.has_score(2)
    assert folders(tmp_path) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("protocol", "key", "value", "counts"),
    [
        ("whole", "evaluation.protocol", "center_crop", True),
        ("whole", "evaluation.window", (64, 64), False),
        ("whole", "evaluation.base_size", 64, True),
        ("slide", "evaluation.window", (64, 64), True),
        ("slide", "evaluation.window_stride", 0.5, True),
        ("slide", "evaluation.window_batch", 4, False),
        ("slide", "evaluation.scales", (1.0,), False),
        ("multiscale", "evaluation.scales", (1.0,), True),
        ("multiscale", "evaluation.flip", False, True),
        ("center_crop", "evaluation.window", (64, 64), True),
        ("center_crop", "evaluation.window_stride", 0.5, False),
    ],
)
def test_what_a_score_depends_on_is_of_its_protocol(
    protocol: str, key: str, value: Any, counts: bool, tmp_path: Path
) -> None:
    """Scores that differ in what their protocol reads are not compared; what it ignores is no matter."""
    config = config_lib.default_config()
    config.evaluation.protocol = protocol
    before = checkpoint.measured_by(config_lib.to_dict(config))
    section, _, name = key.partition(".")
    config[section][name] = value
    after = checkpoint.measured_by(config_lib.to_dict(config))
    with Checkpoints(tmp_path) as manager:
        for step, score, measured in ((1, 0.9, before), (2, 0.3, after)):
            manager.save(state(step), ABOUT)
            manager.add_score(step, score, measured)
    assert checkpoint.find(tmp_path).name == ("2" if counts else "1")


def test_a_score_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Orbax wrote {"mean_iou": …}; the mean was over the classes that are there."""
    config = {
        "data": {"val_split": "val"},
        "evaluation": {"protocol": "whole", "base_size": 0, "absent": "zero"},
    }
    with Checkpoints(tmp_path) as manager:
        manager.save(state(1), {**ABOUT, "config": config})
        manager.wait()
    folder = tmp_path / "checkpoints" / "1"
    (folder / "metrics").mkdir()
    (folder / "metrics" / "metrics").write_text('{"mean_iou": 0.25}')
    score = checkpoint.read_score(folder)
    assert score and score.mean_iou == 0.25
    assert score.measured == {**checkpoint.measured_by(config), "evaluation.absent": "exclude"}


def test_a_checkpoint_holds_what_the_state_was_when_it_was_saved(tmp_path: Path) -> None:
    """The next step uses up the arrays while they are being written."""
    size = 4_000_000
    params = {"w": jnp.arange(size, dtype=jnp.float32)}
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as manager:
        manager.save(TrainState(np.int32(1), params, {}, {"m": np.zeros(2)}), ABOUT)
        step(params)
        manager.wait()
    like = {"params": {"w": np.zeros(size, np.float32)}, "batch_stats": {}}
    loaded = checkpoint.load_variables(tmp_path / "checkpoints" / "1", like)
    np.testing.assert_array_equal(loaded["params"]["w"], np.arange(size, dtype=np.float32))
