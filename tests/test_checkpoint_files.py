"""What is damaged is noticed and put aside; what only cannot be read just now is left where it is."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dpanet_jax import checkpoint
from dpanet_jax.checkpoint import CheckpointError, Checkpoints
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


def saved(workdir: Path, *steps: int, **options: Any) -> Checkpoints:
    """Checkpoints of these steps, all kept; the lines that are told are in `workdir / "told"`."""

    def tell(line: str) -> None:
        with open(workdir / "told", "a") as file:
            file.write(line + "\n")

    manager = Checkpoints(workdir, **{"keep_latest": 10, **options}, tell=tell)
    for step in steps:
        manager.save(state(step, size=SIZE), ABOUT)
    manager.wait()
    return manager


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def arrays(folder: Path) -> Path:
    """The file that holds the numbers of the model."""
    return max(folder.glob("model/ocdbt.process_0/d/*"), key=lambda p: p.stat().st_size)


DAMAGE = {
    "about missing": lambda f: shutil.rmtree(f / "about"),
    "about cut short": lambda f: (f / "about" / "metadata").write_text('{"config": {"see'),
    "about empty": lambda f: (f / "about" / "metadata").write_text(""),
    "about of another kind": lambda f: (f / "about" / "metadata").write_text("[1]"),
    "about changed": lambda f: (f / "about" / "metadata").write_text(
        (f / "about" / "metadata").read_text().replace('"seed": 1', '"seed": 2')
    ),
    "about without its seal": lambda f: (f / "about" / "metadata").write_text(
        json.dumps({**ABOUT, "sha257": "0"})
    ),
    "a copy of another step": lambda f: (shutil.rmtree(f), shutil.copytree(f.with_name("1"), f)),
    "model missing": lambda f: shutil.rmtree(f / "model"),
    "optimizer missing": lambda f: shutil.rmtree(f / "optimizer"),
    "arrays missing": lambda f: arrays(f).unlink(),
    "arrays cut short": lambda f: arrays(f).write_bytes(arrays(f).read_bytes()[:999]),
    "a bit of an array": lambda f: flip(arrays(f)),
    "a part of an array zeroed": lambda f: arrays(f).write_bytes(
        arrays(f).read_bytes()[:40] + bytes(len(arrays(f).read_bytes()) - 40)
    ),
    "metadata garbage": lambda f: (f / "model" / "_METADATA").write_bytes(b"\x00\xff\xfe"),
    "manifest cut short": lambda f: (f / "optimizer" / "manifest.ocdbt").write_bytes(b"\x0c"),
    "empty folder": lambda f: (shutil.rmtree(f), f.mkdir()),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_run_goes_on_from_the_newest_whole_one(tmp_path: Path, kind: str) -> None:
    with saved(tmp_path, 1, 2, 3) as manager:
        DAMAGE[kind](tmp_path / "checkpoints" / "3")
        assert checkpoint.damage(tmp_path / "checkpoints" / "3")
        restored = manager.restore(state(0, size=SIZE))
        assert restored.step == 2 and restored.about == ABOUT
        jax.tree.map(np.testing.assert_array_equal, restored.variables, state(2, SIZE).variables)
        assert folders(tmp_path) == ["1", "2"]
        (line,) = (tmp_path / "told").read_text().splitlines()
        assert line.startswith("the checkpoint of step 3 is damaged (")
        assert line.endswith(f"put aside in {tmp_path / 'damaged' / '3'}, and the run goes on from step 2")
        manager.save(state(3, size=SIZE), ABOUT)
        manager.wait()
        assert manager.restore(state(0, size=SIZE)).step == 3


def test_where_none_is_whole_that_is_said_and_its_advice_works(tmp_path: Path) -> None:
    with saved(tmp_path, 1, 2) as manager:
        shutil.rmtree(tmp_path / "checkpoints" / "1" / "model")
        shutil.rmtree(tmp_path / "checkpoints" / "2" / "about")
        words = (
            rf"no checkpoint is whole \(step 2: .*about.*; step 1: model: .*remove {tmp_path}/checkpoints to"
        )
        for read in (lambda: manager.restore(state(0, size=SIZE)),):
            with pytest.raises(CheckpointError, match=words) as error:
                read()
            assert "\n" not in str(error.value)
        assert folders(tmp_path) == ["1", "2"], "nothing is moved where nothing goes on"
    shutil.rmtree(tmp_path / "checkpoints")
    assert checkpoint.newest_about(tmp_path / "checkpoints") is None


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "f"),
        OSError(errno.EMFILE, "Too many open files", "f"),
        ValueError("PERMISSION_DENIED: Error opening: Permission denied [os_error_code='13']"),
        MemoryError("no memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_read_just_now_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nothing is moved, and no older one is taken in its place."""

    def failing(*_: Any, **__: Any) -> None:
        raise error

    with saved(tmp_path, 1, 2) as manager:
        with monkeypatch.context() as patch:
            patch.setattr(ocp.PyTreeCheckpointHandler, "restore", failing)
            with pytest.raises(CheckpointError, match=r"checkpoints/2: cannot be read \(") as caught:
                manager.restore(state(0, SIZE))
        assert "\n" not in str(caught.value)
        assert folders(tmp_path) == ["1", "2"]
        assert manager.restore(state(0, SIZE)).step == 2
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", failing)
        if isinstance(error, OSError):
            with pytest.raises(CheckpointError, match=r"cannot be read \("):
                checkpoint.newest_about(tmp_path / "checkpoints")


def test_a_damaged_best_is_put_aside_too(tmp_path: Path) -> None:
    with saved(tmp_path, 1, 2, 3) as manager:
        for step, score in ((1, 0.5), (2, 0.9), (3, 0.1)):
            manager.add_score(step, score, MEASURED)
        flip(arrays(tmp_path / "checkpoints" / "2"))
        assert manager.restore(state(0, size=SIZE)).step == 3
    assert folders(tmp_path) == ["1", "3"]
    assert checkpoint.find(tmp_path).name == "1"
    assert "step 2 is damaged (model: its arrays are not those" in (tmp_path / "told").read_text()


def test_another_network_is_no_damage(tmp_path: Path) -> None:
    """However old the checkpoint is: those that do not fit stay where they are."""
    with saved(tmp_path, 1, 2) as manager:
        with pytest.raises(CheckpointError, match="no run can go on from it here"):
            manager.restore(state(0, size=4))
        about = tmp_path / "checkpoints" / "2" / "about" / "metadata"
        about.write_text(json.dumps(ABOUT))  # As before there were checksums.
        with pytest.raises(CheckpointError, match="no run can go on from it here"):
            manager.restore(state(0, size=4))
        assert manager.restore(state(0, size=SIZE)).step == 2
    assert folders(tmp_path) == ["1", "2"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in ("3.orbax-checkpoint-tmp", "2.orbax-checkpoint-tmp-17", "1.removed"):
        (tmp_path / "checkpoints" / name / "model").mkdir(parents=True)
    Checkpoints(tmp_path, writes=False).close()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    Checkpoints(tmp_path).close()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_only_folders_that_are_named_as_steps_are_steps(tmp_path: Path) -> None:
    for name in ("7", "12", "0", "007", "٣", "8.bak", "8 (copy)", "-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "9").write_text("")
    assert checkpoint.steps_of(tmp_path) == [0, 7, 12]
    assert checkpoint.steps_of(tmp_path / "nowhere") == []
