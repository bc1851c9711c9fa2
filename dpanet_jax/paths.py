"""Where files lie and how they are written: the only place that knows either."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dpanet_jax.errors import UsageError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")

# Of the folders that hold a file while it is written.
_UNFINISHED = ".writing."


def local(path: str | os.PathLike[str]) -> Path:
    """The absolute path, `~` expanded. UsageError for an address such as gs://BUCKET/FOLDER.

    This version reads and writes local and mounted file systems only.
    """
    text = os.fspath(path)
    if _ADDRESS.match(text):
        raise UsageError(
            f"{text}: only local paths are read and written by this version; mount the bucket "
            "(gcsfuse, s3fs) and give the path of the mount"
        )
    return Path(os.path.abspath(os.path.expanduser(text)))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new path beside `path` to write to; it takes `path`'s place when the block ends without error.

    Whatever happens, `path` holds the old content or the new one, whole. The folder is made where it is
    not there. Two processes may write the same file: the last one to finish wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own, so that the file itself can keep its suffix, which some writers go by.
    folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=path.parent))
    try:
        unfinished = folder / path.name
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())  # Else a machine that goes down may keep the name and lose the content.
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what a process left in `folder` that died while `replacing` a file there.

    Nobody may be writing there meanwhile.
    """
    for path in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def write_text(path: Path, text: str) -> Path:
    """Writes `text` in UTF-8 to `path`, whole or not at all; returns `path`."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to fill; it takes `path`'s place when the block ends without error.

    `path` must not be there, or be an empty folder; one that filled up meanwhile raises OSError. After an
    error nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    unfinished = staging / path.name
    try:
        unfinished.mkdir()  # Not the temporary folder itself, which only its owner may enter.
        yield unfinished
        unfinished.rename(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
