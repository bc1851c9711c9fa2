"""Orbax checkpoints: written by training, read by everything that uses a trained model.

`WORKDIR/checkpoints/STEP/` holds the items "model" (params and batch_stats), "optimizer", and "about": the
config, the classes, the data pipeline's state, and the version and commit that wrote it, so that nothing else
is needed to go on. Where the model is an average, "trained" has the weights that it is of. "metrics" is added
when the checkpoint has been evaluated.

Checksums in "about" are of the arrays and of itself, so that a checkpoint that was damaged is noticed. A
folder under a step's name is written, and removed, whole: it takes that name when all of it is there.
"""

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpanet_jax import checksums, hosts, paths
from dpanet_jax.checkpoint_files import (
    CHECKSUMS,
    COMMITTED,
    CheckpointError,
    Damaged,
    Restored,
    State,
    cut_short,
    damage,
    first_line,
    folder_of,
    is_whole,
    keep_traces_of_failures_off_stderr,
    load_about,
    load_variables,
    newest_about,
    read_state,
    require_one,
    steps_of,
    written_by,
)
from dpanet_jax.checkpoint_scores import (
    METRIC,
    Score,
    best_steps,
    has_unreadable_score,
    measured_by,
    read_score,
    score_file,
)
from dpanet_jax.paths import AnyPath

__all__ = [
    "COMMITTED",
    "CheckpointError",
    "Checkpoints",
    "Damaged",
    "Restored",
    "Score",
    "State",
    "damage",
    "find",
    "folder_of",
    "load_about",
    "load_variables",
    "measured_by",
    "newest_about",
    "read_score",
    "steps_of",
    "written_by",
]

# What a process leaves that dies while it writes a checkpoint, or removes one.
_UNFINISHED = ("*.orbax-checkpoint-tmp*", "*.removed")


class Checkpoints:
    """The checkpoints of one workdir, opened for writing: asynchronous, the latest and the best kept.

    All hosts of a run open it and call `save`, `add_score`, `restore`, `wait` and `close` together; each
    writes its part of the arrays. With `writes` False, as in all processes of a run but one, nothing else is
    written, moved or removed. `tell` is called with a line about each checkpoint that is found damaged.
    """

    def __init__(
        self,
        workdir: paths.PathLike,
        keep_latest: int = 1,
        keep_best: int = 1,
        *,
        writes: bool = True,
        tell: Callable[[str], Any] = print,
    ) -> None:
        self.folder = folder_of(workdir)
        self._keep_latest, self._keep_best = keep_latest, keep_best
        self._writes, self._tell = writes, tell
        self._writing: int | None = None  # the step whose checkpoint is under way
        self._has_failed = False
        if writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove_unfinished(self.folder)
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        keep_traces_of_failures_off_stderr()

    @property
    def latest(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return max(steps_of(self.folder), default=None)

    def save(self, state: State, about: dict[str, Any]) -> None:
        """Starts writing `state`, whole on each host, in the background.

        Does nothing where this step's checkpoint is there.

        The checkpoint appears under its step's name when all of it is written, and not before. Raises
        CheckpointError where the one before could not be written.
        """
        self.wait()
        step = int(state.step)
        if hosts.of_main(lambda: step in steps_of(self.folder)):
            return
        # Copies in host memory: the next step may use up the arrays, and a checkpoint that holds plain
        # arrays is read on any number of devices.
        items = jax.tree.map(np.asarray, state.items)
        sums: dict[str, Any] = {
            "step": step,
            **{name: checksums.of_tree(item) for name, item in items.items()},
        }
        sealed = checksums.sealed({**about, CHECKSUMS: sums})
        self._writing = step
        with self._failing_in_one_line():
            self._writer.save(
                epath.Path(str(self.folder / str(step))),
                args=ocp.args.Composite(
                    about=ocp.args.JsonSave(sealed),
                    **{name: ocp.args.StandardSave(_in_parts(item)) for name, item in items.items()},
                ),
            )

    def add_score(self, step: int, mean_iou: float, measured: Mapping[str, Any]) -> None:
        """Stores the score of this step's checkpoint, once it is on the disk, and keeps the best.

        `measured` is what `measured_by` returns. A NaN is stored, and is never the best.
        """
        self.wait()
        if self._writes:
            value = None if mean_iou != mean_iou else float(mean_iou)
            content = checksums.sealed({METRIC: value, "measured": dict(measured)})
            paths.write_text(score_file(self.folder / str(step)), json.dumps(content))
            self._remove_superseded()

    def has_score(self, step: int) -> bool:
        """Whether this step's checkpoint has been evaluated."""
        return read_score(self.folder / str(step)) is not None

    def scores(self) -> list[tuple[int, float, dict[str, Any]]]:
        """(step, mean IoU, what it was measured by) of the checkpoints with a score, the oldest first."""
        found = [(step, read_score(self.folder / str(step))) for step in steps_of(self.folder)]
        return [(step, score.mean_iou, score.measured) for step, score in found if score]

    def restore(self, like: State) -> Restored:
        """The newest whole checkpoint; `like` is a state of the same structure, shapes and dtypes.

        Newer ones that are damaged, and a damaged best one, are moved to WORKDIR/damaged, and told of. Raises
        CheckpointError where no checkpoint is there or whole, and where one does not fit `like`.
        """
        damaged: list[Damaged] = []
        for step in reversed(hosts.of_main(lambda: steps_of(self.folder))):
            try:
                restored = _read_on_all_hosts(self.folder / str(step), like)
            except Damaged as error:
                damaged.append(error)
                continue
            for found in damaged:
                self._put_aside(found, f"the run goes on from step {step}")
            self._require_whole_best(step)
            return restored
        require_one(self.folder, damaged)
        raise CheckpointError(f"{self.folder}: no checkpoint has been written yet")

    def wait(self) -> None:
        """Until everything started is on the disk. Raises CheckpointError where it could not be written."""
        with self._failing_in_one_line():
            self._writer.wait_until_finished()
        self._writing = None
        self._remove_superseded()

    def close(self) -> None:
        """Waits for the checkpoint under way, and ends the threads that write."""
        try:
            self.wait()
        finally:
            self._writer.close()
            # A thread that Orbax writes its metadata from may have added a file after the failure.
            if self._writes and self._has_failed:
                _remove_unfinished(self.folder)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            self.close()
        except CheckpointError:
            if kind is None:  # Else what went wrong first is what is told.
                raise

    @contextlib.contextmanager
    def _failing_in_one_line(self) -> Iterator[None]:
        """What fails in writing a checkpoint becomes a CheckpointError, and nothing of it is left."""
        try:
            yield
        except Exception as error:
            # A store's driver has errors of its own kinds.
            if isinstance(self.folder, Path) and not isinstance(error, OSError | ValueError | RuntimeError):
                raise
            step, self._writing, self._has_failed = self._writing, None, True
            if self._writes:
                _remove_unfinished(self.folder)
            latest = self.latest
            safe = "no checkpoint is there yet" if latest is None else f"that of step {latest} is intact"
            raise CheckpointError(
                f"{self.folder}: the checkpoint of step {step} could not be written ({first_line(error)}); "
                f"{safe}"
            ) from error

    def _put_aside(self, damaged: Damaged, then: str) -> None:
        if not self._writes:
            return
        target = self.folder.parent / "damaged"
        target.mkdir(exist_ok=True)
        names = itertools.chain(
            [damaged.folder.name], (f"{damaged.folder.name}_{i}" for i in itertools.count(2))
        )
        path = next(target / name for name in names if not (target / name).exists())
        paths.move_folder(damaged.folder, path, COMMITTED)
        self._tell(
            f"the checkpoint of step {damaged.folder.name} is damaged ({damaged.reason}): it is put aside in "
            f"{path}, and {then}"
        )

    def _require_whole_best(self, restored: int) -> None:
        """Puts damaged checkpoints aside that would else be kept as the best, and stand in the way of it."""
        while self._writes:
            doubtful = [step for step in best_steps(self.folder)[: self._keep_best] if step != restored]
            damaged = [found for step in doubtful if (found := damage(self.folder / str(step)))]
            for found in damaged:
                self._put_aside(found, "the best is now another")
            if not damaged:
                return

    def _remove_superseded(self) -> None:
        if not self._writes:
            return
        steps = steps_of(self.folder)
        kept = {*steps[-self._keep_latest :], *best_steps(self.folder)[: self._keep_best]}
        for step in steps:
            folder = self.folder / str(step)
            # A score that cannot be read may be that of the best.
            if step not in kept and not has_unreadable_score(folder):
                if isinstance(folder, Path):
                    folder = folder.rename(folder.with_name(f"{step}.removed"))
                paths.remove_folder(folder, COMMITTED)


def _in_parts(tree: Any) -> Any:
    """A tree of arrays that every host has whole, as arrays of which each host holds, and writes, a part."""
    if hosts.count() == 1:
        return tree
    first: dict[int, Any] = {}
    for device in jax.devices():
        first.setdefault(device.process_index, device)
    mesh = Mesh(np.asarray([first[host] for host in range(hosts.count())]), ("host",))

    def in_parts(x: np.ndarray) -> jax.Array:
        axes = [axis for axis, length in enumerate(x.shape) if length % hosts.count() == 0]
        longest = max(axes, key=lambda axis: x.shape[axis], default=None)
        spec = PartitionSpec(*("host" if axis == longest else None for axis in range(x.ndim)))
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda part: x[part])

    return jax.tree.map(in_parts, tree)


def _read_on_all_hosts(folder: AnyPath, like: State) -> Restored:
    """One checkpoint, as `read_state`: Damaged on all hosts where it is not whole on one of them."""
    restored, found = None, None
    with hosts.agreed():
        try:
            restored = read_state(folder, like)
        except Damaged as error:
            found = error
    for reason in hosts.gather((found.reason if found else "").encode()):
        if reason:
            raise found or Damaged(folder, reason.decode())
    assert restored is not None
    return restored


def find(path: paths.PathLike, which: str | int = "best") -> AnyPath:
    """The folder of one checkpoint: `path` is a workdir or itself such a folder.

    `which` is "best" (highest validation mean IoU; the latest where none was evaluated), "latest", or a
    step's number. Raises CheckpointError with what there is, and UsageError for an address that no workdir
    can have.
    """
    path, which = folder_of(path).parent, str(which)
    if (path / "about").is_dir() or (path.name.isdecimal() and path.parent.name == "checkpoints"):
        if not is_whole(path):
            raise CheckpointError(f"{path}: there is no such checkpoint")
        return path
    folder = folder_of(path)
    if not folder.is_dir():
        raise CheckpointError(f"{path}: not a workdir of dpanet_jax (it has no checkpoints folder)")
    steps = steps_of(folder)
    if not steps:
        raise CheckpointError(f"{folder}: no checkpoint has been written yet")
    if which == "latest":
        step = steps[-1]
    elif which == "best":
        step = next(iter(best_steps(folder)), steps[-1])
    elif which.isdecimal() and int(which) in steps:
        step = int(which)
    else:
        there = ", ".join(map(str, steps))
        raise CheckpointError(f"{folder}: no checkpoint {which!r}; there is best, latest, {there}")
    return folder / str(step)


def _remove_unfinished(folder: AnyPath) -> None:
    if isinstance(folder, paths.Remote):
        for unfinished in cut_short(folder):
            paths.remove_folder(unfinished)
        return
    for pattern in _UNFINISHED:
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for step in steps_of(folder):
        paths.remove_unfinished(score_file(folder / str(step)).parent)
