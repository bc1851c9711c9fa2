"""A training run from its config to its last checkpoint, and on from wherever it was stopped.

The data pipeline yields a batch of uint8; `layout` lays it on the devices; `step` normalises it, applies the
model, sums the losses and updates; this file logs, saves and evaluates.
"""

import os
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from dpanet_jax import config as config_lib
from dpanet_jax.checkpoint import Checkpoints
from dpanet_jax.evaluation import report
from dpanet_jax.evaluation.evaluate import Evaluated, evaluate
from dpanet_jax.progress import is_main_process, message, progress_bar
from dpanet_jax.training import pictures
from dpanet_jax.training.build import Parts, build, require_valid
from dpanet_jax.training.errors import Interrupted, NotFinite, TrainingError
from dpanet_jax.training.imported import require_classes
from dpanet_jax.training.interruption import Interruption
from dpanet_jax.training.log import RunLog, Window
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.workdir import Workdir


def train(config: ConfigDict, workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Trains in `workdir`, or goes on there from the latest checkpoint; returns the last evaluation.

    The result is `ConfusionMatrix.compute()`'s dictionary for the validation split. Raises ConfigError
    for a wrong config or a workdir of another one, DataError's family for the data set, TrainingError
    where the loss or its gradient is not finite, Interrupted after a signal.
    """
    require_valid(config)
    config = config_lib.resolved(config)
    folder = Workdir(workdir)
    folder.require_run_of(config_lib.to_dict(config))
    parts = build(config, pretrained=not folder.has_checkpoint)
    folder.write_config(parts.about["config"], parts.about["provenance"])
    kept = parts.options.checkpoint
    with Checkpoints(folder.path, kept.keep_latest, kept.keep_best) as checkpoints:
        state = parts.initial_state
        if checkpoints.latest is not None:
            restored = checkpoints.restore(state)
            if restored.about["data"]:
                parts.batches.set_state(restored.about["data"])
            else:  # Of weights that were imported: no batch has been read yet.
                require_classes(restored.about, parts.classes)
            state = TrainState.from_checkpoint(restored)
            logging.info("going on from step %d", restored.step)
        with folder.open_log(int(state.step)) as log:
            try:
                return _run(parts, state, checkpoints, log, folder)
            except NotFinite as error:
                checkpoints.wait()
                latest = checkpoints.latest
                safe = (
                    f"the checkpoint of step {latest} is intact" if latest else "there is no checkpoint yet"
                )
                raise TrainingError(
                    f"{error}: stopped; {safe} in {folder.path}. Lower config.optimizer.lr, or add"
                    " config.optimizer.warmup_steps"
                ) from error


def _run(
    parts: Parts, state: TrainState, checkpoints: Checkpoints, log: RunLog, folder: Workdir
) -> dict[str, Any]:
    """Steps, evaluations and checkpoints, in this order, until the last step."""
    step, evaluated, absent = int(state.step), None, parts.options.evaluation.absent
    if step == 0 and folder.writes:
        picture = pictures.of_first_batch(parts.batches, parts.classes)
        log.picture(0, "training_batch", picture, file="training_batch")
    state = parts.layout.put_state(state)
    with (
        Interruption() as interruption,
        progress_bar(total=parts.total_steps, initial=step, unit="step") as bar,
    ):
        window = Window(log, bar, parts.options.training.batch_size)
        while step < parts.total_steps:
            batch = parts.layout.put_batch(next(parts.batches))
            state, metrics = parts.train_step(state, batch)
            step += 1
            window.add(step, metrics)
            stopped_by = interruption.signal  # Read once: flushed, saved and stopped go together.
            mean_iou = None
            if parts.is_logged(step) or stopped_by:
                window.flush(step)
            if parts.is_evaluated(step):
                evaluated = _evaluate(parts, state, parts.drawn)
                mean_iou = evaluated.matrix.compute()["mean_iou"]
                _tell(parts, step, evaluated, log)
            if parts.is_saved(step) or stopped_by:
                about = {**parts.about, "data": parts.batches.get_state()}
                checkpoints.save(parts.layout.take_state(state), about, mean_iou)
            if stopped_by and step < parts.total_steps:
                checkpoints.wait()
                raise Interrupted(
                    f"stopped by {stopped_by} after step {step} of {parts.total_steps}, which is saved in"
                    f" {folder.path}: the same command goes on from there"
                )
            if parts.is_saved(step):
                window.restart_clock()
    checkpoints.wait()
    evaluated = evaluated or _evaluate(parts, state)  # None: the run had been finished before.
    if is_main_process():
        title = f"{parts.options.data.dataset} {parts.options.data.val_split}, step {step}"
        report.print_table(evaluated.matrix, parts.classes.names, title, absent)
    return evaluated.matrix.compute(absent)


def _evaluate(parts: Parts, state: TrainState, keep: tuple[int, ...] = ()) -> Evaluated:
    """Every host evaluates its own share on its own devices, with its own copy of the weights."""
    variables = jax.tree.map(np.asarray, parts.layout.take_state(state).variables)
    batch_size = parts.options.evaluation.batch_size
    return evaluate(parts.protocol, parts.protocol.put(variables), parts.val_split, batch_size, keep=keep)


def _tell(parts: Parts, step: int, evaluated: Evaluated, log: RunLog) -> None:
    """Logs, prints and draws an evaluation."""
    figures = evaluated.matrix.compute(parts.options.evaluation.absent)
    names = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    log.scalars(step, {f"val/{name}": figures[name] for name in names})
    message(
        f"step {step}: {parts.options.data.val_split} mean IoU {100 * figures['mean_iou']:.2f}%, "
        f"pixel accuracy {100 * figures['pixel_accuracy']:.2f}%"
    )
    if evaluated.kept:
        picture = pictures.of_predictions(evaluated.kept, parts.classes)
        log.picture(step, "predictions", picture, file=f"step_{step:07d}")
