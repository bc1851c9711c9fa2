"""Orbax checkpoints: written by training, read by everything that uses a trained model.

`WORKDIR/checkpoints/STEP/` holds the items "model" (params and batch_stats), "optimizer", and
"about": the config, the classes, the data pipeline's state, and the version and commit that wrote it, so
that nothing else is needed to go on.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from dpanet_jax import paths
from dpanet_jax.errors import DPANetError

METRIC = "mean_iou"


class CheckpointError(DPANetError, ValueError):
    """A checkpoint is absent or not readable; the message names the folder and what to do."""


class State(Protocol):
    """What a checkpoint holds of a run: `training.state.TrainState`."""

    step: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint's content: trees of NumPy arrays and the JSON part."""

    step: int
    variables: dict[str, Any]  # {"params": …, "batch_stats": …}
    about: dict[str, Any]  # {"config": …, "classes": …, "data": …, "provenance": …}
    opt_state: Any = None


def folder_of(workdir: str | os.PathLike[str]) -> Path:
    """Where a workdir's checkpoints lie. UsageError for an address that is no local path."""
    return paths.local(workdir) / "checkpoints"


def written_by(about: Mapping[str, Any]) -> str:
    """Which version wrote a checkpoint, or a config.json, in words for an error."""
    provenance = about.get("provenance")
    if not provenance:
        return "an earlier version of dpanet_jax"  # Before 0.2.0 it was not written down.
    commit = provenance.get("commit")
    return f"dpanet_jax {provenance.get('version')}{f' (commit {commit})' if commit else ''}"


class Checkpoints:
    """The checkpoints of one workdir, opened for writing: asynchronous, the latest and the best kept."""

    def __init__(self, workdir: str | os.PathLike[str], keep_latest: int = 1, keep_best: int = 1) -> None:
        policies: list[preservation_policy.PreservationPolicy] = [
            preservation_policy.LatestN(n=keep_latest),
            preservation_policy.BestN(
                n=keep_best,
                get_metric_fn=lambda metrics: metrics[METRIC],
                keep_checkpoints_without_metrics=False,
            ),
        ]
        self._manager = ocp.CheckpointManager(
            folder_of(workdir),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                # Without it the scores are not written, and a resumed run would not know the best.
                best_fn=lambda metrics: metrics[METRIC],
                cleanup_tmp_directories=True,
            ),
        )

    @property
    def latest(self) -> int | None:
        """The newest whole checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(self, state: State, about: dict[str, Any], mean_iou: float | None = None) -> None:
        """Starts writing `state` in the background. Does nothing where this step's checkpoint is there.

        The checkpoint appears under its step's name when all of it is written, and not before.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(state.variables),
                optimizer=ocp.args.StandardSave(state.opt_state),
                about=ocp.args.JsonSave(about),
            ),
            metrics=None if mean_iou is None else {METRIC: float(mean_iou)},
        )

    def restore(self, like: State) -> Restored:
        """The latest checkpoint; `like` is a state of the same structure, shapes and dtypes.

        Raises CheckpointError where there is none, and where it cannot be read or does not fit `like`.
        """
        step = self.latest
        if step is None:
            raise CheckpointError(f"{self._manager.directory}: no checkpoint has been written yet")
        folder = Path(self._manager.directory) / str(step)
        about = load_about(folder)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardRestore(abstract.variables),
                    optimizer=ocp.args.StandardRestore(abstract.opt_state),
                ),
            )
            _require_shapes(restored, {"model": abstract.variables, "optimizer": abstract.opt_state})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder}: was written by {written_by(about)}, and no run can go on from it here "
                f"({_first_line(error)})"
            ) from error
        return Restored(step, restored["model"], about, restored["optimizer"])

    def wait(self) -> None:
        """Until everything started is on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the checkpoint under way, and ends the threads that write."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def find(path: str | os.PathLike[str], which: str | int = "best") -> Path:
    """The folder of one checkpoint: `path` is a workdir or itself such a folder.

    `which` is "best" (highest validation mean IoU; the latest where none was evaluated), "latest", or a
    step's number. Raises CheckpointError with what there is, and UsageError for an address that is no
    local path.
    """
    path, which = paths.local(path), str(which)
    if (path / "about").is_dir():
        return path
    folder = folder_of(path)
    if not folder.is_dir():
        raise CheckpointError(f"{path}: not a workdir of dpanet_jax (it has no checkpoints folder)")
    manager = ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            read_only=True, create=False, save_interval_steps=0, best_fn=lambda metrics: metrics[METRIC]
        ),
    )
    try:
        steps = sorted(manager.all_steps())
        if not steps:
            raise CheckpointError(f"{folder}: no checkpoint has been written yet")
        best = manager.best_step()
    finally:
        manager.close()
    if which == "latest":
        step = steps[-1]
    elif which == "best":
        step = steps[-1] if best is None else best
    elif which.isdigit() and int(which) in steps:
        step = int(which)
    else:
        there = ", ".join(map(str, steps))
        raise CheckpointError(f"{folder}: no checkpoint {which!r}; there is best, latest, {there}")
    return folder / str(step)


def load_about(checkpoint: Path) -> dict[str, Any]:
    """The JSON part of one checkpoint: config, classes, data, provenance."""
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return reader.restore(checkpoint / "about")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: not a readable checkpoint ({_first_line(error)})") from error


def load_variables(checkpoint: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Only the model of one checkpoint, as NumPy arrays; `like` has its structure and shapes."""
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            variables: dict[str, Any] = reader.restore(
                checkpoint / "model",
                args=ocp.args.PyTreeRestore(
                    item=like,
                    restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like),
                ),
            )
            _require_shapes(variables, like)
            return variables
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{checkpoint}: its model cannot be read ({_first_line(error)})") from error


def _require_shapes(restored: Mapping[str, Any], like: Mapping[str, Any]) -> None:
    """Raises ValueError where an array is of another shape than wanted: Orbax gives it as it is stored."""
    for name, wanted in like.items():
        stored = jax.tree_util.tree_leaves_with_path(restored[name])
        for (path, array), leaf in zip(stored, jax.tree.leaves(wanted), strict=True):
            if np.shape(array) != np.shape(leaf):
                key = f"{name}{jax.tree_util.keystr(path)}"
                raise ValueError(f"{key} is of shape {np.shape(array)} there, and {np.shape(leaf)} here")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
