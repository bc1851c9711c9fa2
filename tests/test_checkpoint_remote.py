"""Checkpoints in a bucket: what comes back, which are taken for whole, and what becomes of the others."""

import contextlib
from pathlib import Path

import jax
import numpy as np
import pytest

from dpanet_jax import checkpoint, checkpoint_files, paths
from dpanet_jax.checkpoint import CheckpointError, Checkpoints, Damaged
from dpanet_jax.errors import UsageError
from dpanet_jax.remote import Remote, RemoteError
from dpanet_jax.training.state import TrainState

ABOUT = {"config": {"seed": 1}, "classes": {}, "provenance": {"version": "9.9.9", "commit": "abc"}}
MEASURED = {"evaluation.absent": "exclude"}


def state(step: int) -> TrainState:
    params = {"w": np.random.default_rng(step).random(300).astype(np.float32)}
    return TrainState(np.int32(step), params, {}, {"m": np.full(2, step, np.float32)})


def save(workdir: str | Path, scores: dict[int, float | None]) -> None:
    with Checkpoints(workdir) as manager:
        for step, score in scores.items():
            manager.save(state(step), ABOUT)
            if score is not None:
                manager.add_score(step, score, MEASURED)


def restored(workdir: str, said: list[str] | None = None) -> checkpoint.Restored:
    with Checkpoints(workdir, tell=(said if said is not None else []).append) as manager:
        return manager.restore(state(0))


def same(ours: checkpoint.Restored, step: int) -> None:
    assert ours.step == step and ours.about == ABOUT
    theirs = state(step)
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    jax.tree.map(np.testing.assert_array_equal, ours.opt_state, theirs.opt_state)


def test_they_come_back_and_the_latest_and_the_best_are_kept(bucket: str) -> None:
    workdir = f"{bucket}/run"
    save(workdir, {1: 0.2, 2: 0.9, 3: 0.5, 4: None})
    folder = checkpoint.folder_of(workdir)
    assert [path.name for path in folder.iterdir()] == ["2", "4"] and checkpoint.steps_of(folder) == [2, 4]
    assert str(checkpoint.find(workdir)) == f"{workdir}/checkpoints/2"
    assert checkpoint.find(workdir, "latest") == checkpoint.find(f"{workdir}/checkpoints/4")
    with pytest.raises(CheckpointError, match="there is best, latest, 2, 4"):
        checkpoint.find(workdir, "3")
    with pytest.raises(CheckpointError, match=f"{workdir}/checkpoints/3: there is no such checkpoint"):
        checkpoint.find(f"{workdir}/checkpoints/3")
    with pytest.raises(CheckpointError, match="not a workdir"):
        checkpoint.find(f"{bucket}/nothing")
    same(restored(workdir), 4)
    like = state(0).variables
    variables = checkpoint.load_variables(checkpoint.find(workdir), like)
    jax.tree.map(np.testing.assert_array_equal, variables, state(2).variables)
    assert checkpoint.damage(checkpoint.find(workdir)) is None


def test_one_that_was_cut_short_is_none_and_goes(bucket: str) -> None:
    """Orbax's own file, written last, is not there: neither is it, nor the time of the end, in the other."""
    workdir = f"{bucket}/run"
    save(workdir, {1: None})
    folder = checkpoint.folder_of(workdir)
    for name in ("model/manifest.ocdbt", "about/metadata"):
        (folder / "2" / name).write_bytes(b"half")
    (folder / "2" / "_CHECKPOINT_METADATA").write_bytes(b'{"commit_timestamp_nsecs": null}')
    assert checkpoint.steps_of(folder) == [1] and checkpoint.find(workdir).name == "1"
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.find(f"{workdir}/checkpoints/2")
    with Checkpoints(workdir, writes=False):
        assert (folder / "2").is_dir(), "only the process that writes removes"
    same(restored(workdir), 1)
    assert not (folder / "2").exists()


def test_what_is_removed_is_no_checkpoint_from_the_first_moment_on(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may die between any two of the objects that it removes."""
    workdir = f"{bucket}/run"
    save(workdir, {1: None})
    folder, seen = checkpoint.folder_of(workdir), []

    def files(self: Remote, real=Remote.files) -> dict[Remote, int]:
        seen.append(checkpoint.steps_of(folder))
        return real(self)

    monkeypatch.setattr(Remote, "files", files)
    save(workdir, {2: None})
    assert [2] in seen and [1, 2] not in seen and checkpoint.steps_of(folder) == [2]


def test_a_workdir_that_was_copied_there_is_read(bucket: str, tmp_path: Path) -> None:
    """Local checkpoints of earlier versions of Orbax lack the file, and are not to be removed."""
    save(tmp_path, {3: 0.5})
    target = Remote(f"{bucket}/copy")
    paths.upload_folder(tmp_path, target)
    (target / "checkpoints/3/commit_success.txt").unlink(missing_ok=True)
    same(restored(str(target)), 3)


def test_a_damaged_one_is_put_aside(bucket: str) -> None:
    workdir = f"{bucket}/run"
    with Checkpoints(workdir, keep_latest=2) as manager:
        for step in (1, 2):
            manager.save(state(step), ABOUT)
    about = checkpoint.folder_of(workdir) / "2/about/metadata"
    about.write_bytes(about.read_bytes()[:-9])
    said: list[str] = []
    same(restored(workdir, said), 1)
    assert len(said) == 1 and f"put aside in {workdir}/damaged/2, and the run goes on from step 1" in said[0]
    assert (Remote(workdir) / "damaged/2/model/manifest.ocdbt").exists()
    assert checkpoint.steps_of(checkpoint.folder_of(workdir)) == [1]


@pytest.mark.parametrize("part", ["manifest.ocdbt", "d", "_METADATA"])
def test_arrays_that_are_not_whole_are_damage(bucket: str, part: str) -> None:
    save(f"{bucket}/run", {1: None})
    model = checkpoint.find(f"{bucket}/run") / "model"
    for path in (model / part).files() or [model / part]:
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(Damaged):
        checkpoint.load_variables(checkpoint.find(f"{bucket}/run"), state(0).variables)


def test_a_store_that_is_away_is_no_damage(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whole checkpoints were put aside whenever a network was."""
    from gcsfs import GCSFileSystem

    save(f"{bucket}/run", {1: None})
    found = checkpoint.find(f"{bucket}/run")

    async def away(*_: object, **__: object) -> None:
        raise OSError("Forbidden: no permission")

    with monkeypatch.context() as patch:
        patch.setattr(GCSFileSystem, "_call", away)
        for read in (checkpoint.load_about, lambda path: checkpoint_files.read_raw(path, "model")):
            with pytest.raises((CheckpointError, RemoteError)) as error:
                read(found)
            assert not isinstance(error.value, Damaged) and "Forbidden" in str(error.value)
    for text in ("UNAVAILABLE: …", "Error opening: PERMISSION_DENIED: …"):
        assert not isinstance(checkpoint_files._unreadable(found, "model", ValueError(text)), Damaged)
    for error_ in (ValueError("DATA_LOSS: …"), FileNotFoundError("x"), KeyError("x")):
        assert isinstance(checkpoint_files._unreadable(found, "model", error_), Damaged)


def test_one_that_cannot_be_written_is_said_in_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gcsfs.core import GCSFile

    def full(*_: object, **__: object) -> None:
        raise NotImplementedError("429, the quota\nis used up")

    save(f"{bucket}/run", {1: None})
    manager = Checkpoints(f"{bucket}/run")
    with monkeypatch.context() as patch:
        patch.setattr(GCSFile, "_upload_chunk", full)
        patch.setattr(GCSFile, "_simple_upload", full)
        words = r"step 2 could not be written \(429, the quota\); that of step 1 is intact$"
        with pytest.raises(CheckpointError, match=words):
            manager.save(state(2), ABOUT)
            manager.wait()
        with contextlib.suppress(CheckpointError):  # Of the files that another thread was writing.
            manager.close()
    save(f"{bucket}/run", {3: None})
    assert checkpoint.steps_of(checkpoint.folder_of(f"{bucket}/run")) == [3]


def test_a_workdir_is_where_orbax_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(
        UsageError, match="^s3://bucket/run: a workdir is a local folder or gs://BUCKET/FOLDER"
    ):
        checkpoint.find("s3://bucket/run")
