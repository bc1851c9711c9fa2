"""One run a workdir: a lock that a process holds, and that its death frees."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from dpanet_jax.training.errors import WorkdirInUse

_NAME = ".lock"


class Lock:
    """Holds WORKDIR/.lock while it is open. The folder is made where it is not there.

    Raises WorkdirInUse where another process, or thread, holds it. The lock is the operating system's
    (`flock`): a process that dies in whatever way lets go of it. Where a file system has no locks, nothing is
    held. A folder that holds nothing but the lock when it is let go of is removed, if it was made here.
    """

    def __init__(self, workdir: Path) -> None:
        self._path = workdir / _NAME
        self._file: IO[str] | None = None
        self._made: list[Path] = []  # folders, the innermost first

    def __enter__(self) -> "Lock":
        self._made = _make(self._path.parent)
        while self._file is None:
            file = open(self._path, "a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    raise WorkdirInUse(_in_use(self._path.parent, file)) from None
            except OSError:
                pass  # The file system has no locks.
            if _is_at(file, self._path):
                self._file = file
            else:
                file.close()  # Another run has removed it at its end, between the two calls.
        self._file.truncate(0)
        self._file.write(f"{self.holder}\n")
        self._file.flush()
        return self

    @property
    def holder(self) -> str:
        """How this process signs a lock that it holds."""
        return f"{os.getpid()} {socket.gethostname()}"

    def is_held_by(self, holder: str) -> bool:
        """Whether the lock that is there is signed so, as another host sees it."""
        try:
            return self._path.read_text(encoding="utf-8").strip() == holder
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._path.unlink(missing_ok=True)  # While it is held: nobody else can hold it yet.
        self._file.close()
        self._file = None
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                break  # It is not empty: the run has begun.


def _make(folder: Path) -> list[Path]:
    """Makes a folder and those above it that are not there; returns the ones made, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _in_use(workdir: Path, file: IO[str]) -> str:
    file.seek(0)
    pid, _, host = file.read().strip().partition(" ")
    return in_use(workdir, f"process {pid} on {host}" if pid.isdecimal() and host else "")


def in_use(workdir: object, holder: str) -> str:
    """What is said of a workdir that another run holds; `holder` is empty where it is not known."""
    who = f" ({holder})" if holder else ""
    return f"{workdir} is in use by another run{who}: wait until it ends, or give another --workdir"


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
