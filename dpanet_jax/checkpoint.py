"""Orbax checkpoints: written by training, read by everything that uses a trained model.

`WORKDIR/checkpoints/STEP/` holds the items "model" (params and batch_stats), "optimizer", and
"about": the config, the classes and the data pipeline's state, so that nothing else is needed to go on.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

METRIC = "mean_iou"


class CheckpointError(ValueError):
    """A checkpoint is absent or not readable; the message names the folder and what to do."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint's content: trees of NumPy arrays and the JSON part."""

    step: int
    variables: dict  # {"params": …, "batch_stats": …}
    about: dict  # {"config": …, "classes": …, "data": …}
    opt_state: Any = None


def folder_of(workdir) -> Path:
    return Path(workdir).absolute() / "checkpoints"


class Checkpoints:
    """The checkpoints of one workdir, opened for writing: asynchronous, the latest and the best kept."""

    def __init__(self, workdir, keep_latest: int = 1, keep_best: int = 1):
        policies = [
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

    def save(self, state, about: dict, mean_iou: float | None = None) -> None:
        """Starts writing `state` (a TrainState) in the background; one of the same step is kept."""
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

    def restore(self, like) -> Restored:
        """The latest checkpoint; `like` is a TrainState of the same structure, shapes and dtypes."""
        step = self.latest
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(abstract.variables),
                optimizer=ocp.args.StandardRestore(abstract.opt_state),
                about=ocp.args.JsonRestore(),
            ),
        )
        return Restored(step, restored["model"], restored["about"], restored["optimizer"])

    def wait(self) -> None:
        """Until everything started is on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def find(path, which: str = "best") -> Path:
    """The folder of one checkpoint: `path` is a workdir or itself such a folder.

    `which` is "best" (highest validation mean IoU; the latest where none was evaluated), "latest", or a
    step's number. Raises CheckpointError with what there is.
    """
    path, which = Path(os.path.expanduser(path)).absolute(), str(which)
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


def load_about(checkpoint: Path) -> dict:
    """The JSON part of one checkpoint: config, classes, data."""
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return reader.restore(checkpoint / "about")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: not a readable checkpoint ({error})") from error


def load_variables(checkpoint: Path, like: dict) -> dict:
    """Only the model of one checkpoint, as NumPy arrays; `like` has its structure and shapes."""
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(
                checkpoint / "model",
                args=ocp.args.PyTreeRestore(
                    item=like,
                    restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like),
                ),
            )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{checkpoint}: its model cannot be read ({error})") from error
