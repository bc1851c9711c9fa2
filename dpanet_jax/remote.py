"""Files of object stores as paths: what `paths.anywhere` returns for gs://BUCKET/FOLDER and s3://BUCKET/FOLDER.

fsspec reads and writes them, by a driver for each kind of store. A store has objects and no folders: a folder
is there while an object's name begins with its. An object is written whole or not at all, and cannot be
appended to or renamed.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO

from dpanet_jax.errors import DPANetError, UsageError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
# Scheme: the package that is fsspec's driver, and the extra that brings it.
_DRIVERS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
SCHEMES = tuple(f"{scheme}://" for scheme in _DRIVERS)


class RemoteError(DPANetError, OSError):
    """A store cannot be read or written, now or by this user; the text names the address and says why."""


def is_address(text: str) -> bool:
    """Whether a text is an address such as gs://BUCKET/FOLDER, and no local path."""
    return bool(_ADDRESS.match(text))


@functools.total_ordering
class Remote:
    """An object, or a folder of objects, with the methods of `pathlib.Path` that apply.

    It is no `os.PathLike`, so that what opens local files refuses it. Where an object is not there,
    FileNotFoundError is raised; whatever else goes wrong is a RemoteError.
    """

    def __init__(self, address: str) -> None:
        match = _ADDRESS.fullmatch(address)
        if match is None or match[1].lower() not in _DRIVERS:
            raise UsageError(
                f"{address}: only local paths and {' or '.join(SCHEMES)} addresses can be given here"
            )
        self._scheme = match[1].lower()
        parts = [part for part in match[2].split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            raise UsageError(f"{address}: an address is {self._scheme}://BUCKET/NAME, without ..")
        driver, extra = _DRIVERS[self._scheme]
        if importlib.util.find_spec(driver) is None:
            raise UsageError(
                f"{address}: needs {driver}, which is not installed: pip install 'dpanet_jax[{extra}]' (or: "
                f"pip install {driver})"
            )
        self._key = PurePosixPath(*parts)

    def _with(self, key: PurePosixPath) -> "Remote":
        other = object.__new__(Remote)
        other._scheme, other._key = self._scheme, key
        return other

    def __str__(self) -> str:
        return f"{self._scheme}://{self._key}"

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and str(self) == str(other)

    def __lt__(self, other: "Remote") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str | PurePath) -> "Remote":
        return self._with(self._key / name)

    @property
    def scheme(self) -> str:
        """Such as "gs"."""
        return self._scheme

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self._key.name

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""
        return self._key.suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self._key.stem

    @property
    def parent(self) -> "Remote":
        """The folder above; of a bucket itself."""
        return self if len(self._key.parts) == 1 else self._with(self._key.parent)

    def with_name(self, name: str) -> "Remote":
        """Another name in the same folder."""
        return self._with(self._key.with_name(name))

    def relative_to(self, folder: "Remote") -> PurePosixPath:
        """The part of the address below a folder."""
        return self._key.relative_to(folder._key)

    @property
    def _store(self) -> Any:
        return _store(self._scheme)

    def _info(self) -> dict[str, Any] | None:
        """What the store says of the object or folder; None where there is none."""
        try:
            with _said_of(self, "read"):
                info: dict[str, Any] = self._store.info(str(self._key))
                return info
        except FileNotFoundError:
            return None

    def exists(self) -> bool:
        """Whether there is an object of this name, or a folder."""
        return self._info() is not None

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        info = self._info()
        return info is not None and info["type"] == "directory"

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        info = self._info()
        return info is not None and info["type"] == "file"

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as soon as an object is."""

    def iterdir(self) -> Iterator["Remote"]:
        """What lies in a folder, in the order of the names."""
        with _said_of(self, "listed"):
            keys = self._store.ls(str(self._key), detail=False)
        # A console makes a folder by an object whose name is the folder's, with a slash.
        names = sorted({PurePosixPath(key) for key in keys} - {self._key})
        return (self._with(name) for name in names)

    def files(self) -> dict["Remote", int]:
        """{object: its size in bytes} of all that lie below, at whatever depth, in the order of the names."""
        with _said_of(self, "listed"):
            found = self._store.find(str(self._key), detail=True)
        sizes = {
            self._with(PurePosixPath(key)): int(info["size"])
            for key, info in found.items()
            if info["type"] == "file" and not key.endswith("/")
        }
        return dict(sorted(sizes.items()))

    def size(self) -> int:
        """Bytes of the object."""
        return int(self._require()["size"])

    def identity(self) -> str:
        """A text that changes when the object is written anew."""
        info = self._require()
        told = ("size", "generation", "etag", "ETag", "LastModified", "mtime")
        return " ".join(f"{key}={info[key]}" for key in told if info.get(key) is not None)

    def _require(self) -> dict[str, Any]:
        info = self._info()
        if info is None:
            raise _absent(self)
        return info

    def open(self, mode: str = "rb") -> BinaryIO:
        """The object for reading, with `seek`."""
        if mode != "rb":
            raise ValueError(f"an object is opened for reading alone, not with mode {mode!r}")
        with _said_of(self, "read"):
            file: BinaryIO = self._store.open(str(self._key), mode)
            return file

    def read_bytes(self, most: int | None = None) -> bytes:
        """All of the object, or its first `most` bytes."""
        with _said_of(self, "read"):
            content: bytes = self._store.cat_file(str(self._key), end=most)
            return content

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All of the object, decoded."""
        return self.read_bytes().decode(encoding, errors)

    def download(self, path: Path) -> None:
        """Writes the object to a local path, checked by its size."""
        with _said_of(self, "read"):
            self._store.get_file(str(self._key), str(path))
        if path.stat().st_size != self.size():
            raise RemoteError(f"{self}: cannot be read (it came with {path.stat().st_size} bytes)")

    def upload(self, path: Path) -> None:
        """Makes the object of a local file, in place of one that is there."""
        with _said_of(self, "written"):
            self._store.put_file(str(path), str(self._key))

    def write_bytes(self, content: bytes) -> None:
        """Makes the object of some bytes, in place of one that is there."""
        with _said_of(self, "written"):
            self._store.pipe_file(str(self._key), content)

    def copy_to(self, target: "Remote") -> None:
        """Copies the object within its kind of store, not through this machine."""
        with _said_of(target, "written"):
            self._store.cp_file(str(self._key), str(target._key))

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        try:
            with _said_of(self, "removed"):
                self._store.rm_file(str(self._key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_below(self, first: Sequence[str] = ()) -> None:
        """Removes all objects of a folder. Those named in `first`, which say that it is whole, go first."""
        for name in first:
            (self / name).unlink(missing_ok=True)
        keys = [str(path._key) for path in self.files()]
        with contextlib.suppress(FileNotFoundError), _said_of(self, "removed"):
            if keys:
                self._store.rm(keys)


@functools.cache
def _store(scheme: str) -> Any:
    """fsspec's file system of a scheme. Listings are asked for anew each time, for others write too."""
    # Orbax's own paths are etils', which would else import TensorFlow wherever it is installed.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec
    import fsspec.config

    driver = _DRIVERS[scheme][0]
    logging.getLogger(driver).setLevel(logging.CRITICAL)  # It logs with a trace what it raises.
    protocol = {"gs": "gcs"}.get(scheme, scheme)
    # In fsspec's configuration and not here alone, for etils makes a file system of its own.
    fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    try:
        return fsspec.filesystem(protocol)
    except Exception as error:  # of whatever kind credentials make it trip over
        raise RemoteError(f"{scheme}://: cannot be reached ({_words(error)})") from error


@contextlib.contextmanager
def _said_of(path: Remote, what: str) -> Iterator[None]:
    """What a driver raises becomes FileNotFoundError or RemoteError, which name the path."""
    try:
        yield
    except DPANetError:
        raise
    except FileNotFoundError as error:
        if what == "written":
            raise RemoteError(f"{path}: cannot be written (there is no such bucket)") from error
        raise _absent(path) from error
    except Exception as error:  # of whatever kind the driver and what it calls raise
        raise RemoteError(f"{path}: cannot be {what} ({_words(error)})") from error


def _absent(path: Remote) -> FileNotFoundError:
    return FileNotFoundError(2, os.strerror(2), str(path))


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
