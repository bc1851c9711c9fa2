"""The files of a checkpoint: where they lie, what they hold, and whether they are whole.

`checkpoint` is the module to use; this one is a part of it.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from dpanet_jax import checksums, paths
from dpanet_jax.errors import DPANetError, UsageError, is_out_of_memory
from dpanet_jax.paths import AnyPath

# By these files of Orbax's a checkpoint in a bucket is known to be whole. The first is written last of all.
COMMITTED = ("commit_success.txt", "_CHECKPOINT_METADATA")
CHECKSUMS = "checksums"
_ABOUT = {"config", "classes", "data", "provenance", "patience", CHECKSUMS}

# Errors of the operating system that say nothing of what a file holds.
_NOT_NOW = {
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EINTR,
    errno.ESTALE,
    errno.ETIMEDOUT,
}

# TensorStore's, of a store that does not answer, or not to this user.
_STATUS_NOT_NOW = re.compile(
    "UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED|CANCELLED"
)


class CheckpointError(DPANetError, ValueError):
    """A checkpoint is absent or not readable; the message names the folder and what to do."""


class Damaged(CheckpointError):
    """A checkpoint is not whole: `reason` says what of it."""

    def __init__(self, folder: AnyPath, reason: str) -> None:
        super().__init__(f"{folder}: not a readable checkpoint ({reason})")
        self.folder, self.reason = folder, reason


class State(Protocol):
    """What a checkpoint holds of a run: `training.state.TrainState`."""

    step: Any

    @property
    def items(self) -> dict[str, Any]:
        """{"model": …, "optimizer": …}, and of some runs "trained": trees of arrays."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint's content: trees of NumPy arrays and the JSON part."""

    step: int
    variables: dict[str, Any]  # {"params": …, "batch_stats": …}
    about: dict[str, Any]  # {"config": …, "classes": …, "data": …, "provenance": …} and, of some, "patience"
    opt_state: Any = None
    trained: dict[str, Any] | None = None  # what goes on being trained, where it is not `variables`


def folder_of(workdir: paths.PathLike) -> AnyPath:
    """Where a workdir's checkpoints lie. UsageError for an address where Orbax writes none: all but gs://."""
    path = paths.anywhere(workdir)
    if isinstance(path, paths.Remote) and path.scheme != "gs":
        raise UsageError(f"{path}: a workdir is a local folder or gs://BUCKET/FOLDER")
    return path / "checkpoints"


def steps_of(folder: AnyPath) -> list[int]:
    """The steps of which a folder of checkpoints has a whole one, in their order."""
    return [step for step in _steps(folder) if is_whole(folder / str(step))]


def is_whole(folder: AnyPath) -> bool:
    """Whether a checkpoint's folder is there and was written to its end, as far as names tell.

    A local folder takes its name when all of it is there. In a bucket Orbax writes a file last, which the
    checkpoint of a local workdir that was copied there may lack: that has the time of its end in another.
    """
    if isinstance(folder, Path):
        return folder.is_dir()
    committed, metadata = (folder / name for name in COMMITTED)
    if committed.exists():
        return True
    try:
        return bool(json.loads(metadata.read_text())["commit_timestamp_nsecs"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def cut_short(folder: paths.Remote) -> list[paths.Remote]:
    """The steps' folders in a bucket whose checkpoint was not written, or not removed, to its end."""
    folders = [folder / str(step) for step in _steps(folder)]
    return [path for path in folders if not is_whole(path)]


def _steps(folder: AnyPath) -> list[int]:
    if not folder.is_dir():
        return []
    # Not "007", nor digits of another script, which int() takes too.
    names = [path.name for path in folder.iterdir() if re.fullmatch("0|[1-9][0-9]*", path.name)]
    return sorted(int(name) for name in names if (folder / name).is_dir())


def written_by(about: Mapping[str, Any]) -> str:
    """Which version wrote a checkpoint, or a config.json, in words for an error."""
    provenance = about.get("provenance")
    if not provenance:
        return "an earlier version of dpanet_jax"  # Before 0.2.0 it was not written down.
    commit = provenance.get("commit")
    return f"dpanet_jax {provenance.get('version')}{f' (commit {commit})' if commit else ''}"


def newest_about(folder: AnyPath) -> dict[str, Any] | None:
    """The JSON part of the newest checkpoint in which it is whole; None where there is no checkpoint.

    Raises CheckpointError where there are checkpoints and none is whole.
    """
    damaged = []
    for step in reversed(steps_of(folder)):
        try:
            return load_about(folder / str(step))
        except Damaged as error:
            damaged.append(error)
    require_one(folder, damaged)
    return None


def require_one(folder: AnyPath, damaged: list[Damaged]) -> None:
    """Raises CheckpointError where all of a folder's checkpoints, which are some, are `damaged`."""
    if damaged:
        reasons = "; ".join(f"step {error.folder.name}: {error.reason}" for error in damaged[:3])
        raise CheckpointError(
            f"{folder}: no checkpoint is whole ({reasons}); copy one there anew, or remove {folder} to begin "
            "from the start"
        )


def damage(folder: AnyPath) -> Damaged | None:
    """What is wrong with a checkpoint, as far as it can be told without its network; None: nothing."""
    try:
        sums = _read_about(folder).get(CHECKSUMS, {})
        for name in {"model", "optimizer", *sums} - {"step"}:
            read_raw(folder, name, sums.get(name))
    except Damaged as error:
        return error
    return None


def read_raw(folder: AnyPath, name: str, sums: Mapping[str, str] | None = None) -> Any:
    """One item, such as "model", as plain nested dictionaries and lists of NumPy arrays."""
    stored = _stored(folder, name)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stored)
    return _read_arrays(folder, name, like, sums)


def load_about(checkpoint: AnyPath) -> dict[str, Any]:
    """The JSON part of one checkpoint: config, classes, data, provenance. Damaged where it is not whole."""
    about = _read_about(checkpoint)
    about.pop(CHECKSUMS, None)
    return about


def read_state(folder: AnyPath, like: State) -> Restored:
    """One checkpoint, for a run whose state is `like`. Damaged where it is not whole.

    Raises CheckpointError where it holds the state of another network.
    """
    about = _read_about(folder)
    sums = about.pop(CHECKSUMS, {})
    items = like.items
    for name, item in items.items():
        misfit = _misfit(folder, name, item, sums.get(name))
        if misfit:
            raise CheckpointError(
                f"{folder}: was written by {written_by(about)}, and no run can go on from it here ({misfit})"
            )
    read = {name: _read_arrays(folder, name, item, sums.get(name)) for name, item in items.items()}
    return Restored(int(folder.name), read["model"], about, read["optimizer"], read.get("trained"))


def load_variables(checkpoint: AnyPath, like: dict[str, Any]) -> dict[str, Any]:
    """Only the model of one checkpoint, as NumPy arrays; `like` has its structure and shapes.

    Raises Damaged where it is not whole, and CheckpointError where it is of another network.
    """
    about = _read_about(checkpoint)
    sums = about.get(CHECKSUMS, {}).get("model")
    misfit = _misfit(checkpoint, "model", like, sums)
    if misfit:
        raise CheckpointError(
            f"{checkpoint}: its model cannot be read ({misfit}); it was written by {written_by(about)}"
        )
    variables: dict[str, Any] = _read_arrays(checkpoint, "model", like, sums)
    return variables


def first_line(error: BaseException) -> str:
    """What an error says, on one line; of TensorStore's long ones, what the operating system said."""
    code = _system_code(error)
    if code is not None and not isinstance(error, OSError):
        return os.strerror(code)
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _system_code(error: BaseException) -> int | None:
    """The number of the operating system's error that an error is, or that TensorStore's text names."""
    if isinstance(error, OSError):
        return error.errno
    named = re.search(r"os_error_code='(\d+)'", str(error))
    return int(named[1]) if named else None


def _unreadable(folder: AnyPath, reason: str, error: BaseException) -> CheckpointError:
    """Damaged, or, where the checkpoint may be whole and cannot be read just now, a CheckpointError."""
    not_now = _system_code(error) in _NOT_NOW or is_out_of_memory(error)
    if not_now or (isinstance(folder, paths.Remote) and not _is_of_content(error)):
        return CheckpointError(f"{folder}: cannot be read ({reason})")
    return Damaged(folder, reason)


def _is_of_content(error: BaseException) -> bool:
    """Whether an error in reading from a store is of what is stored there, and not of the way to it."""
    kinds = (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, IndexError)
    return isinstance(error, kinds) and not _STATUS_NOT_NOW.search(str(error))


def _read_about(folder: AnyPath) -> dict[str, Any]:
    """The JSON part, its checksums of the arrays included."""
    if not folder.is_dir():
        raise Damaged(folder, "there is no such folder")
    try:
        # The place and the name of the file are those of Orbax's JsonCheckpointHandler.
        about = checksums.unsealed(json.loads((folder / "about" / "metadata").read_text(encoding="utf-8")))
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.errno else first_line(error)
        raise _unreadable(folder, reason, error) from error
    except (ValueError, RecursionError) as error:
        raise Damaged(folder, f"about/metadata: {first_line(error)}") from error
    odd = about.keys() - _ABOUT or {"config", "classes"} - about.keys()
    if odd or not all(isinstance(value, dict) for value in about.values()):
        raise Damaged(folder, "about/metadata: is not what training writes")
    step = about.get(CHECKSUMS, {}).get("step", folder.name)
    if folder.parent.name == "checkpoints" and str(step) != folder.name:
        raise Damaged(folder, f"about/metadata: is of step {step}")
    return about


def _misfit(folder: AnyPath, name: str, like: Any, sums: Mapping[str, str] | None) -> str | None:
    """In which point a checkpoint's item is of another network than `like`; None where in none."""
    if sums and sums["structure"] == checksums.structure_of_tree(like):
        return None
    stored = {key: tuple(leaf.shape) for key, leaf in checksums.named_leaves(_stored(folder, name))}
    wanted = {key: tuple(np.shape(leaf)) for key, leaf in checksums.named_leaves(like)}
    for key in sorted(stored.keys() | wanted.keys()):
        if key not in stored or key not in wanted:
            return f"{name}/{key} is only {'there' if key in stored else 'here'}"
        if stored[key] != wanted[key]:
            return f"{name}/{key} is of shape {stored[key]} there, and {wanted[key]} here"
    return f"{name} is of other types there than here" if sums else None


def _stored(folder: AnyPath, name: str) -> Any:
    """The tree of one item, its leaves described and not read."""
    with _reader() as reader:
        try:
            return reader.metadata(epath.Path(str(folder / name))).tree
        except Exception as error:  # of whatever kind Orbax trips over
            raise _unreadable(folder, f"{name}: {first_line(error)}", error) from error


def _read_arrays(folder: AnyPath, name: str, like: Any, sums: Mapping[str, str] | None) -> Any:
    """One item as NumPy arrays in a tree of the kind of `like`, checked where there are checksums."""
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    with _reader() as reader:
        try:
            tree = reader.restore(
                epath.Path(str(folder / name)), args=ocp.args.PyTreeRestore(item=like, restore_args=as_numpy)
            )
        except Exception as error:  # of whatever kind Orbax and TensorStore trip over
            raise _unreadable(folder, f"{name}: {first_line(error)}", error) from error
    if sums and checksums.of_tree(tree) != sums:
        raise Damaged(folder, f"{name}: its arrays are not those that were written")
    return tree


@contextlib.contextmanager
def _reader() -> Iterator[ocp.PyTreeCheckpointHandler]:
    keep_traces_of_failures_off_stderr()
    reader = ocp.PyTreeCheckpointHandler()
    try:
        yield reader
    finally:
        reader.close()


def keep_traces_of_failures_off_stderr() -> None:
    """Keeps back what TensorStore and asyncio print of arrays that cannot be read or written.

    The first such array ends Orbax's event loop, and the failure is raised. Each of the others then reports,
    with a trace, that there is no loop, or that nobody asked what became of it: some when the process ends.
    """
    hook = sys.unraisablehook
    if getattr(hook, "keeps_back", False):
        return

    def without_closed_loops(raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            hook(raised)

    without_closed_loops.keeps_back = True  # type: ignore[attr-defined]
    sys.unraisablehook = without_closed_loops
    logging.getLogger("asyncio").addFilter(_is_of_interest)


def _is_of_interest(record: logging.LogRecord) -> bool:
    return "never retrieved" not in record.getMessage()
