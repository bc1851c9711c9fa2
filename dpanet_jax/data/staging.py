"""Copies of prepared data sets that lie in a bucket.

A run reads every record in a random order, once an epoch: from a bucket that were a request each time. A copy
is kept in CACHE/data, and is made file by file, of the splits that are opened. It is known by the address and
by the content of metadata.json, so a data set that is prepared anew is copied anew. Processes of one machine
share a copy, and wait for each other while it is made.
"""

import fcntl
import hashlib
from collections.abc import Callable
from pathlib import Path

from dpanet_jax import paths
from dpanet_jax.progress import message


def local_copy(folder: paths.AnyPath, wanted: Callable[[str], bool]) -> Path:
    """A folder as it is where it is local; else a copy, with at least the files whose names are `wanted`.

    Every file is whole, and as long as the one in the bucket. Raises RemoteError, and OSError where the disk
    is full.
    """
    if isinstance(folder, Path):
        return folder
    identity = hashlib.sha256(f"{folder} ".encode() + (folder / "metadata.json").read_bytes()).hexdigest()
    copy = paths.cache_folder() / "data" / identity[:32] / folder.name
    copy.mkdir(parents=True, exist_ok=True)
    with (copy.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = {
            path: size
            for path, size in folder.files().items()
            if path.parent == folder and wanted(path.name) and not _is_there(copy / path.name, size)
        }
        if missing:
            paths.remove_unfinished(copy)  # Of a process that was killed: nobody else is writing here.
            megabytes = sum(missing.values()) / 2**20
            message(f"copying {len(missing)} files ({megabytes:.1f} MiB) of {folder} to {copy}")
        for path in missing:
            with paths.replacing(copy / path.name) as unfinished:
                path.download(unfinished)
    return copy


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
