"""Where files lie and how they are written: the only place that knows local paths from remote ones.

A local path is a `pathlib.Path`, an address in a bucket a `remote.Remote`, which has the same methods as far
as they apply. `AnyPath` is either.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from dpanet_jax.errors import UsageError
from dpanet_jax.remote import Remote, RemoteError, is_address

__all__ = [
    "AnyPath",
    "PathLike",
    "Remote",
    "RemoteError",
    "anywhere",
    "cache_folder",
    "fetched",
    "is_address",
    "local",
    "move_folder",
    "new_folder",
    "remove_folder",
    "remove_unfinished",
    "replacing",
    "replacing_folder",
    "require_writable",
    "upload_folder",
    "write_text",
]

AnyPath: TypeAlias = Path | Remote
# What a caller may hand over where a local path or an address is asked for.
PathLike: TypeAlias = str | os.PathLike[str] | Remote

# Of the folders that hold a file while it is written.
_UNFINISHED = ".writing."


def anywhere(path: PathLike) -> AnyPath:
    """The absolute local path, `~` expanded; or the object or folder that a gs:// or s3:// address names.

    Raises UsageError for another kind of address, and where what reads such addresses is not installed.
    """
    if isinstance(path, Remote):
        return path
    text = os.fspath(path)
    return Remote(text) if is_address(text) else local(text)


def local(path: PathLike) -> Path:
    """The absolute path, `~` expanded. UsageError for an address, where only a local path can serve."""
    text = str(path) if isinstance(path, Remote) else os.fspath(path)
    if is_address(text):
        raise UsageError(
            f"{text}: only local paths can be given here; copy it to this machine, or mount the bucket "
            "(gcsfuse, mount-s3) and give the path of the mount"
        )
    return Path(os.path.abspath(os.path.expanduser(text)))


def cache_folder() -> Path:
    """Where copies of remote files and compiled programs are kept: $XDG_CACHE_HOME/dpanet_jax.

    Where the variable is not set, ~/.cache/dpanet_jax, and on macOS ~/Library/Caches/dpanet_jax.
    """
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return local(os.environ.get("XDG_CACHE_HOME") or usual) / "dpanet_jax"


def fetched(path: AnyPath) -> Path:
    """A local file as it is; a copy of a remote one, in the cache, made where there is none of its content.

    Raises FileNotFoundError where there is no such object, and RemoteError.
    """
    if isinstance(path, Path):
        return path
    key = hashlib.sha256(f"{path} {path.identity()}".encode()).hexdigest()[:32]
    copy = cache_folder() / "files" / key / path.name
    if not copy.is_file():
        with replacing(copy) as unfinished:
            path.download(unfinished)
    return copy


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """A new local path to write to; the file takes `path`'s place when the block ends without error.

    Whatever happens, `path` holds the old content or the new one, whole. The folder is made where it is
    not there. Two processes may write the same file: the last one to finish wins. What goes to a store is
    written to a temporary folder, and uploaded at the end.
    """
    if isinstance(path, Remote):
        with tempfile.TemporaryDirectory(prefix="dpanet_jax_") as name:
            unfinished = Path(name, path.name)
            yield unfinished
            path.upload(unfinished)
        return
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


def remove_unfinished(folder: AnyPath) -> None:
    """Removes what a process left in `folder` that died while `replacing` a file there.

    Nobody may be writing there meanwhile. In a store nothing is left: an upload that is cut short makes no
    object.
    """
    if isinstance(folder, Path):
        for path in folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)


def remove_folder(folder: AnyPath, first: Sequence[str] = ()) -> None:
    """Removes a folder and all in it, where it is there; of a store, the objects named in `first` first."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.remove_below(first)


def move_folder(folder: AnyPath, target: AnyPath, first: Sequence[str] = ()) -> None:
    """Gives a folder another name, which nothing has yet; both are local, or of one kind of store.

    A store has no rename: all objects are copied, and then removed, those named in `first` first.
    """
    if isinstance(folder, Path) and isinstance(target, Path):
        folder.rename(target)
        return
    assert isinstance(folder, Remote) and isinstance(target, Remote)
    for path in folder.files():
        path.copy_to(target / path.relative_to(folder).as_posix())
    folder.remove_below(first)


def write_text(path: AnyPath, text: str) -> AnyPath:
    """Writes `text` in UTF-8 to `path`, whole or not at all; returns `path`."""
    if isinstance(path, Remote):
        path.write_bytes(text.encode("utf-8"))
        return path
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


@contextlib.contextmanager
def new_folder(path: AnyPath, last: Sequence[str] = ()) -> Iterator[Path]:
    """A new local folder to fill; it takes `path`'s place when the block ends without error.

    `path` must not be there, or be an empty folder; one that filled up meanwhile raises OSError. After an
    error nothing is left. In a store that holds but for an upload that is cut short: see `upload_folder`,
    which says what `last` is.
    """
    if isinstance(path, Remote):
        with tempfile.TemporaryDirectory(prefix="dpanet_jax_") as name:
            unfinished = Path(name, path.name)
            unfinished.mkdir()
            yield unfinished
            if path.files():
                raise FileExistsError(17, os.strerror(17), str(path))
            upload_folder(unfinished, path, last)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    unfinished = staging / path.name
    try:
        unfinished.mkdir()  # Not the temporary folder itself, which only its owner may enter.
        yield unfinished
        unfinished.rename(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def replacing_folder(path: AnyPath) -> Iterator[Path]:
    """`new_folder`, where a folder that is there already is replaced."""
    if isinstance(path, Remote):
        with tempfile.TemporaryDirectory(prefix="dpanet_jax_") as name:
            yield Path(name)
            path.remove_below()
            upload_folder(Path(name), path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=path.parent))
    try:
        unfinished = staging / path.name
        unfinished.mkdir()
        yield unfinished
        if path.is_dir():
            path.rename(staging / "replaced")
        unfinished.rename(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def upload_folder(folder: Path, target: Remote, last: Sequence[str] = ()) -> None:
    """Uploads all files of a local folder, those named in `last` after all others, in the order of `last`.

    A store has no rename: until the last object is there, some of the folder is. So `last` names the files
    by which readers tell that it is whole. What an error cuts short is removed again, as far as that can be.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files.sort(key=lambda path: last.index(path.name) if path.name in last else -1)
    done: list[Remote] = []
    try:
        for path in files:
            done.append(target / path.relative_to(folder).as_posix())
            done[-1].upload(path)
    except BaseException:
        with contextlib.suppress(OSError):
            for path_there in reversed(done):
                path_there.unlink(missing_ok=True)
        raise


def require_writable(folder: AnyPath) -> None:
    """Raises RemoteError where nothing can be written to a folder of a store; local ones are not looked at.

    For before long work. Nothing but an attempt tells what one may do in a bucket: an object is written, and
    removed.
    """
    if isinstance(folder, Remote):
        probe = folder / f"{_UNFINISHED}{os.getpid()}"
        probe.write_bytes(b"")
        with contextlib.suppress(OSError):  # One may be allowed to write, and not to remove.
            probe.unlink(missing_ok=True)
