"""A training run from its config to its last checkpoint, and on from wherever it was stopped.

The data pipeline yields a batch of uint8; `layout` lays it on the devices; `step` normalises it, applies the
model, sums the losses and updates; this file logs, saves and evaluates.
"""

import contextlib
import os
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from dpanet_jax import compilation_cache, hosts
from dpanet_jax import config as config_lib
from dpanet_jax.checkpoint import Checkpoints
from dpanet_jax.evaluation import protocols, report
from dpanet_jax.evaluation.evaluate import Evaluated, evaluate, memory_said_in_one_line
from dpanet_jax.models.precision import computing_in
from dpanet_jax.progress import is_main_process, message, progress_bar
from dpanet_jax.training import agreement, pictures, stopped
from dpanet_jax.training.build import Parts, build, require_valid
from dpanet_jax.training.errors import Interrupted
from dpanet_jax.training.imported import require_classes
from dpanet_jax.training.input_wait import InputWait
from dpanet_jax.training.interruption import CutShort, Interruption
from dpanet_jax.training.log import RunLog, Window
from dpanet_jax.training.patience import Patience
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.workdir import Workdir


def train(config: ConfigDict, workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Trains in `workdir`, or goes on there from the newest whole checkpoint; returns the last evaluation.

    On several hosts, all of them call it (see `hosts.join`). The result is `ConfusionMatrix.compute()`'s
    dictionary for the validation split. Raises ConfigError for a wrong config or a workdir of another one,
    DataError's family for the data set, TrainingError where numbers are not finite, memory or disk do not
    suffice, or another run holds the workdir, Interrupted after a signal, CheckpointError where no checkpoint
    of the workdir is whole, and HostError where hosts differ, or one of them fails.
    """
    compilation_cache.enable()
    with hosts.agreed():
        require_valid(config)
        config = config_lib.resolved(config)
        folder = Workdir(workdir)
    agreement.require_same_request(config)
    with folder, computing_in(config.model.get("dtype", "float32")), hosts.lost_in_one_line():
        goes_on = hosts.of_main(lambda: folder.has_checkpoint)
        values, changed = hosts.of_main(lambda: folder.config_of_run(config_lib.to_dict(config)))
        with hosts.agreed():
            parts = build(agreement.of_this_host(values, config), begins=not goes_on, ahead=True)
        agreement.require_same_contents(parts)
        kept, patience = parts.options.checkpoint, Patience(parts.options.training.patience)
        with Checkpoints(
            folder.path, kept.keep_latest, kept.keep_best, writes=folder.writes, tell=message
        ) as checkpoints:
            if not goes_on:
                state, evaluated = parts.initial_state, True
                folder.begin(parts.about["config"], parts.about["provenance"])
            else:
                restored = checkpoints.restore(parts.initial_state)
                state = TrainState.from_checkpoint(restored)
                evaluated = not parts.is_evaluated(restored.step) or hosts.of_main(
                    lambda: checkpoints.has_score(restored.step)
                )
                scores = hosts.of_main(checkpoints.scores)
                patience.go_on(restored.about.get("patience", {}), restored.step, scores)
                if restored.about.get("data"):
                    parts.batches.set_state(restored.about["data"])
                else:  # Weights that were imported have read no data yet.
                    require_classes(restored.about, parts.classes)
                logging.info("going on from step %d", restored.step)
                if changed:
                    message(f"goes on from step {restored.step} with {'; '.join(changed)}")
                folder.go_on(parts.about["config"], parts.about["provenance"])
            with (
                folder.open_log(int(state.step), evaluated) as log,
                stopped.in_one_line(parts, checkpoints, folder),
            ):
                return _Run(parts, state, checkpoints, log, folder, patience).to_the_end(evaluated)


def hint_of_input(share: float) -> None:
    """Says once what helps where the devices wait for images."""
    message(
        f"the devices stood idle for input {share:.0%} of the last steps' time: raise config.data.num_threads"
        " or config.data.num_workers, or store images that are read faster (prepare --store=jpeg)"
    )


class _Run:
    """Steps, checkpoints and evaluations, in this order, until the last step or the end of the patience."""

    def __init__(
        self,
        parts: Parts,
        state: TrainState,
        checkpoints: Checkpoints,
        log: RunLog,
        folder: Workdir,
        patience: Patience,
    ) -> None:
        self.parts, self.checkpoints, self.log, self.folder = parts, checkpoints, log, folder
        self.patience = patience
        self.input = InputWait()
        self.step = int(state.step)
        self.state = parts.layout.put_state(state)
        self.evaluated: Evaluated | None = None  # at the last step

    def to_the_end(self, evaluated: bool) -> dict[str, Any]:
        """Returns the last evaluation. `evaluated`: whether the step to begin from needs none any more."""
        parts = self.parts
        sizes = len(set(parts.val_split.sizes))
        if sizes >= protocols.MANY_SIZES and (line := protocols.compilations(parts.protocol, sizes)):
            message(line)
        if self.step == 0 and self.folder.writes:
            pictures.draw_first_batch(parts.batches, parts.classes, self.log)
        with (
            Interruption() as interruption,
            progress_bar(total=parts.total_steps, initial=self.step, unit="step") as bar,
            contextlib.closing(self.input),
        ):
            if not evaluated:
                self._evaluate(interruption)
            window = Window(self.log, bar, parts.options.training.batch_size, hint_of_input)
            while self.step < parts.total_steps:
                if self.patience.is_over:
                    message(self.patience.in_words(self.step, parts.total_steps))
                    break
                self._one_step(window, interruption)
            if self.evaluated is None:  # The run had been finished before.
                self.evaluated = self._evaluated(interruption)
        self.checkpoints.wait()
        absent = parts.options.evaluation.absent
        if is_main_process():
            title = f"{parts.options.data.dataset} {parts.options.data.val_split}, step {self.step}"
            report.print_table(self.evaluated.matrix, parts.classes.names, title, absent)
        return self.evaluated.matrix.compute(absent)

    def _one_step(self, window: Window, interruption: Interruption) -> None:
        parts = self.parts
        batch, waited = self.input.next(parts.batches)
        self.state, metrics = parts.train_step(self.state, parts.layout.put_batch(batch))
        self.input.started(metrics["loss"])
        self.step += 1
        window.add(self.step, metrics, waited)
        stopping = interruption.asked()  # Once: flushed, saved and stopped go together.
        if parts.is_logged(self.step) or stopping:
            window.flush(self.step)
        if parts.is_saved(self.step) or stopping:
            self._save()
        if stopping:
            self._stop(stopping)
        if parts.is_evaluated(self.step):
            self._evaluate(interruption)
        if parts.is_saved(self.step):
            window.restart_clock()

    def _save(self) -> None:
        """Before the evaluation, so that nothing is lost by whatever happens there."""
        state = self.parts.layout.take_state(self.state).to_host()
        state.require_finite()
        self.log.sync()
        about = {**self.parts.about, "data": self.parts.batches.get_state()}
        if self.patience.limit:
            about["patience"] = self.patience.to_dict()
        self.checkpoints.save(state, about)

    def _stop(self, by: str) -> None:
        self.checkpoints.wait()
        raise Interrupted(
            f"stopped by {by} after step {self.step} of {self.parts.total_steps}, which is saved in"
            f" {self.folder.path}: the same command goes on from there"
        )

    def _evaluate(self, interruption: Interruption) -> None:
        """Evaluates the step that was saved: logs it, stores its score, prints and draws, in this order."""
        parts = self.parts
        self.evaluated = self._evaluated(interruption, parts.drawn)
        figures = self.evaluated.matrix.compute(parts.options.evaluation.absent)
        names = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
        self.log.scalars(self.step, {f"val/{name}": figures[name] for name in names})
        self.checkpoints.add_score(self.step, figures["mean_iou"], parts.measured)
        self.patience.add(self.step, figures["mean_iou"], parts.measured)
        message(
            f"step {self.step}: {parts.options.data.val_split} mean IoU {100 * figures['mean_iou']:.2f}%, "
            f"pixel accuracy {100 * figures['pixel_accuracy']:.2f}%"
        )
        pictures.draw_predictions(self.evaluated.kept, parts.classes, self.log, self.step)

    def _evaluated(self, interruption: Interruption, keep: tuple[int, ...] = ()) -> Evaluated:
        """Every host evaluates its own share on its own devices, with its own copy of the weights."""
        parts = self.parts
        batch_size, watched = parts.options.evaluation.batch_size, interruption.until_noted
        variables = jax.tree.map(np.asarray, parts.layout.take_state(self.state).variables)
        try:
            with memory_said_in_one_line(batch_size, parts.protocol):
                variables = parts.protocol.put(variables)
            return evaluate(
                parts.protocol,
                variables,
                parts.val_split,
                batch_size,
                keep=keep,
                num_threads=parts.options.data.num_threads,
                progress=watched,
            )
        except CutShort as error:
            self._stop(str(error))
            raise
