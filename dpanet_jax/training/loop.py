"""A training run from its config to its last checkpoint, and on from wherever it was stopped."""

import json
import signal
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from dpanet_jax import checkpoint, models
from dpanet_jax import config as config_lib
from dpanet_jax.data import pipeline
from dpanet_jax.data.classes import colorize
from dpanet_jax.evaluation import figures, inference, report
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.progress import progress_bar
from dpanet_jax.training import losses, parallel
from dpanet_jax.training import optimizer as optimizer_lib
from dpanet_jax.training.log import RunLog
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.step import make_train_step


class TrainingError(RuntimeError):
    """The run cannot go on; the message says why, and what is safe on the disk."""


class Interrupted(TrainingError):
    """A signal (Ctrl-C, or a scheduler's SIGTERM) stopped the run after a checkpoint."""


def train(config: ConfigDict, workdir) -> dict:
    """Trains in `workdir`, or goes on there from the latest checkpoint; returns the last evaluation.

    The result is `ConfusionMatrix.compute()`'s dictionary for the validation split. Raises ConfigError
    for a wrong config or a workdir of another one, DataError's family for the data set,
    TrainingError where the loss is not finite, Interrupted after a signal.
    """
    config_lib.check(config)
    build_model(config, num_classes=1)  # Checks the model's options before anything is read or written.
    parallel.check_batch_size(config.training.batch_size, config.training.accumulate_steps)
    workdir = Path(workdir).absolute()
    check_workdir(config, workdir)
    run = Run(config, workdir)
    try:
        return run.train()
    finally:
        run.close()


def check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Raises ConfigError where `workdir` belongs to a run with another config."""
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise config_lib.ConfigError(f"{workdir} is a file: --workdir must be a folder")
    if not path.exists():
        if checkpoint.folder_of(workdir).exists():
            raise config_lib.ConfigError(
                f"{workdir} has checkpoints but no config.json: use another --workdir"
            )
        return
    try:
        old = json.loads(path.read_text())
    except ValueError as error:
        raise config_lib.ConfigError(f"{path} is not readable JSON ({error})") from error
    differences = config_lib.differences(old, config_lib.to_dict(config))
    if differences:
        raise config_lib.ConfigError(
            f"{workdir} holds a run with another config ({'; '.join(differences[:4])}"
            f"{'; …' if len(differences) > 4 else ''}): use another --workdir, or that config"
        )


def build_model(config: ConfigDict, num_classes: int, axis_name: str | None = None):
    """The model that a config describes."""
    return models.build(num_classes, axis_name=axis_name, **config_lib.model_options(config))


def training_batches(config: ConfigDict, split):
    """The batches that a config trains on, of this process: an endless iterator with a state."""
    data = config.data
    return iter(
        pipeline.train_batches(
            split,
            batch_size=config.training.batch_size,
            crop_size=tuple(data.crop_size),
            base_size=data.base_size,
            scale_range=tuple(data.scale_range),
            flip=data.flip,
            color_jitter=data.color_jitter,
            blur=data.blur,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_workers=data.num_workers,
        )
    )


class Run:
    """The parts of one run, built from its config."""

    def __init__(self, config: ConfigDict, workdir: Path):
        self.config, self.workdir = config, workdir
        data, training = config.data, config.training
        self.train_split = pipeline.open_split(data.dataset, data.train_split, data.data_dir or None)
        self.val_split = pipeline.open_split(data.dataset, data.val_split, data.data_dir or None)
        self.classes = self.train_split.classes
        self.steps_per_epoch = max(1, len(self.train_split) // training.batch_size)
        self.total_steps = optimizer_lib.total_steps(
            len(self.train_split), training.batch_size, training.epochs, training.steps
        )
        self.parallel = parallel.PARALLELISMS[config.parallelism]()
        num_classes = len(self.classes.names)
        config_lib.check_class_weights(config, self.classes.names)
        model = build_model(config, num_classes, self.parallel.axis_name)
        lr = optimizer_lib.scaled_lr(config.optimizer.lr, training.batch_size, config.optimizer.lr_batch_size)
        schedule = optimizer_lib.poly_schedule(
            lr, self.total_steps, config.optimizer.power, config.optimizer.warmup_steps
        )
        self.optimizer = optimizer_lib.sgd(
            schedule,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            head_lr_multiplier=config.optimizer.head_lr_multiplier,
        )
        self.train_step = self.parallel.compile(
            make_train_step(
                model,
                self.optimizer,
                schedule,
                {term: config.loss[term] for term in losses.TERMS},
                class_weights=tuple(config.loss.class_weights),
                seed=config.seed,
                accumulate_steps=training.accumulate_steps,
                axis_name=self.parallel.axis_name,
            )
        )
        self.predictor = inference.Predictor(
            build_model(config, num_classes), self.classes, base_size=config.evaluation.base_size
        )
        self.batches = training_batches(config, self.train_split)
        self.main_process = jax.process_index() == 0
        state = self._initial_state()
        self._write_config()
        self.checkpoints = checkpoint.Checkpoints(
            workdir, config.checkpoint.keep_latest, config.checkpoint.keep_best
        )
        if self.checkpoints.latest is not None:
            state = self._restored(state)
        self.step = int(state.step)
        self.state = self.parallel.put_state(state)
        self.log = RunLog(workdir, self.step) if self.main_process else None
        self.signal = None

    def close(self) -> None:
        """Waits for the checkpoint under way and closes the files."""
        self.checkpoints.close()
        if self.log:
            self.log.close()

    def _initial_state(self) -> TrainState:
        config = self.config
        model = build_model(config, len(self.classes.names))
        variables = init_variables(model, jax.random.key(config.seed), tuple(config.data.crop_size))
        variables = jax.device_get(variables)  # The same on every host, to be laid on all devices.
        if config.model.pretrained and checkpoint_is_absent(self.workdir):
            variables = torch_weights.load(
                config.model.pretrained, variables, tuple(config.model.pretrained_missing)
            )
        return TrainState.create(variables, self.optimizer)

    def _write_config(self) -> None:
        path = self.workdir / "config.json"
        if self.main_process and not path.exists():
            self.workdir.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".json.tmp")
            temporary.write_text(json.dumps(config_lib.to_dict(self.config), indent=1) + "\n")
            temporary.replace(path)

    def _restored(self, like: TrainState) -> TrainState:
        restored = self.checkpoints.restore(like)
        self.batches.set_state(restored.about["data"])
        logging.info("going on from step %d", restored.step)
        return TrainState(
            step=np.int32(restored.step),
            params=restored.variables["params"],
            batch_stats=restored.variables["batch_stats"],
            opt_state=restored.opt_state,
        )

    def _save(self, mean_iou: float | None = None) -> None:
        about = {
            "config": config_lib.to_dict(self.config),
            "classes": self.classes.to_dict(),
            "data": self.batches.get_state(),
        }
        self.checkpoints.save(self.parallel.take_state(self.state), about, mean_iou)

    def train(self) -> dict:
        """Steps, evaluations and checkpoints, in this order, until the last step."""
        config = self.config
        every = config.evaluation.every_epochs * self.steps_per_epoch
        matrix = None
        if self.step == 0 and self.main_process:
            self._draw_training_batch()
        with (
            _Signals(self),
            progress_bar(total=self.total_steps, initial=self.step, unit="step") as bar,
        ):
            window = _Window(self, bar)
            while self.step < self.total_steps:
                batch = self.parallel.put_batch(next(self.batches))
                self.state, metrics = self.train_step(self.state, batch)
                self.step += 1
                window.add(self.step, metrics)
                evaluating = self.step % every == 0 or self.step == self.total_steps
                saving = evaluating or (
                    config.checkpoint.every_steps and self.step % config.checkpoint.every_steps == 0
                )
                if saving or self.signal or self.step % config.log_every_steps == 0:
                    window.flush()
                if evaluating:
                    matrix = self._evaluate(bar)
                if saving or self.signal:
                    self._save(matrix.compute()["mean_iou"] if evaluating else None)
                if self.signal and self.step < self.total_steps:
                    self.checkpoints.wait()
                    raise Interrupted(
                        f"stopped by {self.signal} after step {self.step} of {self.total_steps}, which is"
                        f" saved in {self.workdir}: the same command goes on from there"
                    )
                if saving:
                    window.restart_clock()
        self.checkpoints.wait()
        if matrix is None:  # The run had been finished before.
            matrix = self._evaluate(None)
        if self.main_process:
            title = f"{config.data.dataset} {config.data.val_split}, step {self.step}"
            report.print_table(matrix, self.classes.names, title, config.evaluation.absent)
        return matrix.compute(config.evaluation.absent)

    def _evaluate(self, bar):
        config = self.config
        # Every host evaluates its own share on its own devices, with its own copy of the weights.
        variables = self.predictor.put(
            jax.tree.map(np.asarray, self.parallel.take_state(self.state).variables)
        )
        matrix = inference.evaluate(self.predictor, self.val_split, config.evaluation.batch_size, variables)
        figures_ = matrix.compute(config.evaluation.absent)
        if not self.main_process:
            return matrix
        names = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
        if bar is not None:
            self.log.scalars(self.step, {f"val/{name}": figures_[name] for name in names})
            bar.write(
                f"step {self.step}: {config.data.val_split} mean IoU {100 * figures_['mean_iou']:.2f}%, "
                f"pixel accuracy {100 * figures_['pixel_accuracy']:.2f}%"
            )
            self._draw_predictions(variables)
        return matrix

    def _draw_predictions(self, variables) -> None:
        count = min(self.config.pictures, len(self.val_split))
        if not count:
            return
        # Spread over the split: neighbouring frames of a video look alike.
        chosen = [i * len(self.val_split) // count for i in range(count)]
        examples = [self.val_split[i] for i in chosen]
        predictions = [
            self.predictor.predict_batch(example["image"][None], variables)[0] for example in examples
        ]
        picture = figures.comparison(examples, predictions, self.classes)
        figures.save(picture, self.workdir / "pictures" / f"step_{self.step:07d}.png")
        self.log.picture(self.step, "predictions", picture)

    def _draw_training_batch(self) -> None:
        """What the network is fed: the first batch after augmentation, drawn and not consumed."""
        state = self.batches.get_state()
        batch = next(self.batches)
        self.batches.set_state(state)
        count = min(8, len(batch["image"]))
        picture = figures.sheet(
            {
                "training crop": list(batch["image"][:count]),
                "label": [colorize(label, self.classes) for label in batch["label"][:count]],
            }
        )
        figures.save(picture, self.workdir / "pictures" / "training_batch.png")
        self.log.picture(0, "training_batch", picture)


def checkpoint_is_absent(workdir: Path) -> bool:
    """Whether a run in `workdir` starts from its beginning."""
    folder = checkpoint.folder_of(workdir)
    return not (folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir()))


class _Window:
    """The steps since the last line of the log: their means, their speed, and whether all is finite."""

    def __init__(self, run: Run, bar):
        self._run, self._bar = run, bar
        self._pending, self._values = None, []
        self.restart_clock()

    def restart_clock(self) -> None:
        self._start, self._steps = time.perf_counter(), 0

    def add(self, step: int, metrics: dict) -> None:
        """Reads the step before: the device is then one step ahead of the host, never idle."""
        pending, self._pending = self._pending, (step, metrics)
        self._steps += 1
        if pending:
            self._read(*pending)

    def _read(self, step: int, metrics: dict) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        # The gradient too: its update is already in the parameters that a checkpoint would hold.
        bad = [name for name in ("loss", "grad_norm") if not np.isfinite(values[name])]
        if bad:
            run = self._run
            run.checkpoints.wait()
            latest = run.checkpoints.latest
            kept = (
                "there is no checkpoint yet"
                if latest is None
                else f"the checkpoint of step {latest} is intact"
            )
            raise TrainingError(
                f"{bad[0]} is {values[bad[0]]} at step {step} (lr {values['lr']:.3g}): stopped; {kept} in"
                f" {run.workdir}. Lower config.optimizer.lr, or add config.optimizer.warmup_steps"
            )
        self._values.append(values)
        self._bar.update()

    def flush(self) -> None:
        """Waits for the device and logs the window."""
        if self._pending:
            self._read(*self._pending)
            self._pending = None
        if not self._values:
            return
        means = {key: float(np.mean([v[key] for v in self._values])) for key in self._values[0]}
        means["lr"] = self._values[-1]["lr"]
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rate = self._steps * self._run.config.training.batch_size / seconds
        if self._run.log:
            scalars = {f"train/{key}": value for key, value in means.items()}
            self._run.log.scalars(self._run.step, {**scalars, "train/images_per_second": rate})
        self._bar.set_postfix_str(
            f"loss {means['loss']:.3f}, lr {means['lr']:.2e}, {rate:.1f} images/s", refresh=False
        )
        self._values = []
        self.restart_clock()


class _Signals:
    """While it is open, Ctrl-C and SIGTERM are noted in `run.signal`; a second one acts at once."""

    def __init__(self, run: Run):
        self._run, self._old = run, {}

    def __enter__(self):
        def note(number, frame):
            self._run.signal = signal.Signals(number).name
            signal.signal(number, self._old[number])

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, note)
            except ValueError:
                break  # Not the main thread: signals are then somebody else's to handle.
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)
