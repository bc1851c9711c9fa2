"""One run a workdir: who comes second is refused, and death lets go."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dpanet_jax.training.errors import WorkdirInUse
from dpanet_jax.training.lock import Lock

HOLDER = """
import sys, time
from pathlib import Path
from dpanet_jax.training.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_process_is_refused_until_the_first_one_dies(tmp_path: Path) -> None:
    workdir = tmp_path / "new" / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workdir)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        words = (
            rf"new/run is in use by another run \(process {holder.pid} on \S+\): wait until it ends, or give"
        )
        try:
            with pytest.raises(WorkdirInUse, match=words) as error, Lock(workdir):
                pass
        finally:
            holder.kill()
        assert "\n" not in str(error.value)
    with Lock(workdir):
        assert (workdir / ".lock").read_text().startswith(f"{os.getpid()} ")


def test_another_thread_is_refused_too(tmp_path: Path) -> None:
    refused = []

    def second() -> None:
        with pytest.raises(WorkdirInUse), Lock(tmp_path):
            pass
        refused.append(True)

    with Lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert refused == [True]
    with Lock(tmp_path):
        pass


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path: Path) -> None:
    with Lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with Lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "metrics.jsonl").write_text("")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["metrics.jsonl"]
    (tmp_path / "mine").mkdir()
    with Lock(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir(), "a folder that was there stays"


def test_a_lock_that_goes_while_it_is_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, the run before removes it: the lock of it is worth nothing."""
    flock, calls = fcntl.flock, []

    def late(file: object, operation: int) -> None:
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(operation)
        flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)
    with Lock(tmp_path):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(WorkdirInUse), Lock(tmp_path):
            pass
    assert len(calls) == 3


def test_a_file_system_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    with Lock(tmp_path):
        pass
