"""Runs whose workdir and data lie in a bucket: the numbers of a run at home, whatever they are stopped by."""

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from runs import TIMES

import dpanet_jax
from dpanet_jax import __main__, leases
from dpanet_jax.paths import upload_folder
from dpanet_jax.remote import Remote, RemoteError
from dpanet_jax.training import build, log, loop, upload, workdir
from dpanet_jax.training.errors import Interrupted, TrainingError, WorkdirInUse
from dpanet_jax.training.log import RunLog

MakeConfig = Callable[[], ConfigDict]


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(leases, "BEAT", 0.1)
    monkeypatch.setattr(leases, "DEAD_AFTER", 0.5)


@pytest.fixture
def config(bucket: str, streets_dir: Path, make_config: MakeConfig) -> ConfigDict:
    folder = streets_dir / "streets/1.0.0"
    upload_folder(folder, Remote(f"{bucket}/data/streets/1.0.0"), last=("metadata.json",))
    made = make_config()
    made.data.data_dir = f"{bucket}/data"
    return made


def lines_of(path: Path | Remote) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def at_step(step: int, act: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Acts once, while that step is finished."""
    is_logged, done = build.Parts.is_logged, []

    def asked(self: build.Parts, now: int) -> bool:
        if now == step and not done:
            done.append(now)
            act()
        return is_logged(self, now)

    patch.setattr(build.Parts, "is_logged", asked)


def test_a_run_is_stopped_goes_on_and_is_used(
    bucket: str,
    config: ConfigDict,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loop.train(make_config(), tmp_path / "run")
    there = Remote(f"{bucket}/run")
    with (
        monkeypatch.context() as patch,
        pytest.raises(Interrupted, match=f"is saved in {there}: the same command"),
    ):
        at_step(4, lambda: signal.raise_signal(signal.SIGTERM), patch)
        loop.train(config, str(there))
    assert {path.name for path in (there / "checkpoints").iterdir()} == {"3", "5"}
    assert not (there / ".lock").exists() and len(lines_of(there / "metrics.jsonl")) == 6
    loop.train(config, str(there))

    ours, theirs = dpanet_jax.load(str(there), "latest"), dpanet_jax.load(tmp_path / "run", "latest")
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    assert ours.step == 6 and str(ours.folder) == f"{there}/checkpoints/6"
    assert lines_of(there / "metrics.jsonl") == lines_of(tmp_path / "run/metrics.jsonl")
    assert not (there / ".lock").exists()
    names = {path.relative_to(there).as_posix() for path in there.files()}
    at_home = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*.png")}
    assert {name for name in names if name.endswith(".png")} == at_home
    assert sum("tfevents" in name for name in names) == 2, "one of each start"
    assert json.loads((there / "config.json").read_text())["data"]["data_dir"] == f"{bucket}/data"

    assert __main__.main(["evaluate", f"--workdir={there}"]) == 0
    assert f"written to {there}/evaluation/val_whole.json" in capsys.readouterr().out
    figures = json.loads((there / "evaluation/val_whole.json").read_text())
    assert figures["checkpoint"] == f"{there}/checkpoints/{figures['step']}"

    images = [np.full((16, 32, 3), value, np.uint8) for value in (0, 200)]
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        Remote(f"{bucket}/images/day/{i}.png").write_bytes(file.getvalue())
    Remote(f"{bucket}/images/.hidden/3.png").write_bytes(b"")
    Remote(f"{bucket}/images/notes.txt").write_bytes(b"")
    output = f"{bucket}/images/predicted"
    for _ in range(2):  # The second time, what the first has written lies among the inputs.
        flags = [f"--workdir={there}", f"--input={bucket}/images", f"--output={output}", "--train_ids"]
        assert __main__.main(["predict", *flags]) == 0
        assert f"2 images: ids, color and overlay are in {output}" in capsys.readouterr().out
    model = dpanet_jax.load(str(there))
    for i, image in enumerate(images):
        with Image.open(Remote(f"{output}/ids/day/{i}.png").open()) as ids:
            np.testing.assert_array_equal(np.asarray(ids), model.predict(image))


def test_a_workdir_that_a_living_run_holds_is_refused(
    bucket: str, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workdir, "message", lambda text: None)
    words = (
        rf"^{bucket}/run is in use by another run \(process \d+ on \S+\): wait until it ends, or give another"
    )
    with leases.Lease(Remote(f"{bucket}/run"), lambda text: None):
        with pytest.raises(WorkdirInUse, match=words):
            loop.train(config, f"{bucket}/run")


def test_a_run_whose_workdir_was_taken_over_stops_and_writes_no_more(
    bucket: str, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after minutes without a network: another was started meanwhile."""

    def lose() -> None:
        monkeypatch.setattr(leases.Lease, "require_held", lost)

    def lost(self: leases.Lease) -> None:
        raise leases.Held("the folder", "process 7 on there")

    at_step(4, lose, monkeypatch)
    with pytest.raises(WorkdirInUse, match=rf"{bucket}/run is in use by another run \(process 7 on there\)"):
        loop.train(config, f"{bucket}/run")
    assert [path.name for path in Remote(f"{bucket}/run/checkpoints").iterdir()] == ["3"]
    assert lines_of(Remote(f"{bucket}/run/metrics.jsonl"))[-1]["step"] == 3


def test_a_store_that_is_away_ends_a_run_in_one_line(
    bucket: str, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Remote, path: Path) -> None:
        raise RemoteError(f"{self}: cannot be written (no network)")

    at_step(6, lambda: monkeypatch.setattr(Remote, "upload", fail), monkeypatch)
    words = (
        f"^{bucket}/run/.*: cannot be written .no network.: stopped; the same command goes on from the newest"
    )
    with pytest.raises(TrainingError, match=words) as error:
        loop.train(config, f"{bucket}/run")
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    assert [path.name for path in Remote(f"{bucket}/run/checkpoints").iterdir()] == ["3"]


def test_what_was_logged_before_a_checkpoint_is_there_after_a_death(bucket: str) -> None:
    """A process that is killed uploads nothing more; the run goes on from the checkpoint."""
    there = Remote(f"{bucket}/run")
    dying = RunLog(there)
    dying.scalars(1, {"loss": 3.0})
    assert not there.exists()
    dying.sync()
    dying.scalars(2, {"loss": 2.0})
    with RunLog(there, step=1) as going_on:
        going_on.scalars(2, {"loss": 2.5})
    assert lines_of(there / "metrics.jsonl") == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}]
    assert len((there / "tensorboard").files()) == 2
    dying.close()


def test_large_files_of_events_are_not_uploaded_again_and_again(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "_SECONDS", -1.0)
    monkeypatch.setattr(log, "_LARGE", 500)
    uploaded: list[str] = []

    def counting(self: Remote, path: Path, real=Remote.upload) -> None:
        uploaded.append(self.name)
        real(self, path)

    monkeypatch.setattr(Remote, "upload", counting)
    there = Remote(f"{bucket}/run")
    with RunLog(there) as run_log:
        for step in range(40):
            run_log.scalars(step, {"loss": step})
    events = (there / "tensorboard").files()
    assert len(events) > 1 and max(events.values()) < 700
    assert all(uploaded.count(path.name) < 40 for path in events)
    assert lines_of(there / "metrics.jsonl") == [{"step": step, "loss": step} for step in range(40)]


def test_a_run_that_begins_anew_removes_what_the_last_one_left(bucket: str) -> None:
    there = Remote(f"{bucket}/run")
    with workdir.Workdir(f"{bucket}/run") as folder:
        folder.begin({"seed": 1}, {"version": "1"})
        for name in ("pictures/old.png", "tensorboard/old", "metrics.jsonl"):
            (there / name).write_bytes(b"")
        folder.begin({"seed": 2}, {"version": "2"})
        folder.go_on({"seed": 3}, {"version": "3"})
    assert [str(path.relative_to(there)) for path in there.files()] == ["config.json"]
    assert json.loads((there / "config.json").read_text()) == {"seed": 3, "provenance": {"version": "2"}}
