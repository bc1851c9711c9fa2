"""From a config to the parts of its run: the one place of training that reads a config."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from dpanet_jax import checkpoint, models, version
from dpanet_jax import config as config_lib
from dpanet_jax.config import Sections
from dpanet_jax.data import pipeline, readers
from dpanet_jax.data.classes import Classes
from dpanet_jax.data.options import Augmentation, Data
from dpanet_jax.data.split import Split, open_split
from dpanet_jax.evaluation import protocols
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.models.precision import param_dtype_for
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.training import layout, pictures
from dpanet_jax.training.ahead import made_ahead
from dpanet_jax.training.height import require_even_height
from dpanet_jax.training.layout import Layout, TrainStep
from dpanet_jax.training.losses import require_whole_batches
from dpanet_jax.training.optimizer import Schedule, make_optimizer, schedule_for, total_steps
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Parts:
    """Everything that a run is made of. `build` makes it."""

    options: Sections
    train_split: Split
    val_split: Split
    classes: Classes
    steps_per_epoch: int
    total_steps: int
    model: Any  # what `models.build` returns
    schedule: Schedule
    optimizer: optax.GradientTransformation
    layout: Layout
    train_step: TrainStep  # compiled
    batches: pipeline.TrainBatches  # of this process, endless, with a state
    initial_state: TrainState  # in host memory
    protocol: protocols.Protocol  # how the validation split is evaluated
    drawn: tuple[int, ...]  # the validation examples whose predictions are drawn
    about: dict[str, Any]  # what a checkpoint says of its run: {"config", "classes", "provenance"}

    def is_evaluated(self, step: int) -> bool:
        """Whether the validation split is evaluated after this step."""
        every = self.options.evaluation.every_epochs * self.steps_per_epoch
        return step > 0 and step % every == 0 or step == self.total_steps

    @property
    def measured(self) -> dict[str, Any]:
        """What the score of a checkpoint depends on beside its weights."""
        return checkpoint.measured_by(self.about["config"])

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is written after this step."""
        every = self.options.checkpoint.every_steps
        return self.is_evaluated(step) or bool(every and step % every == 0)

    def is_logged(self, step: int) -> bool:
        """Whether the window of the log ends with this step: no checkpoint is ahead of its log."""
        return self.is_saved(step) or step % self.options.run.log_every_steps == 0


def require_valid(config: ConfigDict) -> None:
    """Raises ConfigError for what can be told to be wrong before anything is read or written.

    The file of pretrained weights is not looked for: a run that goes on needs none, and `build` reads it.
    """
    config_lib.check_config(config, starts=False)
    options = config_lib.sections(config)
    training = options.training
    layout.require_even_batches(
        training.batch_size,
        training.accumulate_steps,
        options.evaluation.batch_size,
        options.sharding.space,
    )
    require_even_height(options)
    require_whole_batches(options.loss_options, training.accumulate_steps)


def build(config: ConfigDict, *, begins: bool = True, ahead: bool = False) -> Parts:
    """The parts of the run that a config describes, on this process's and all devices.

    `begins` False is for a run that goes on from a checkpoint: its first weights are neither drawn nor read
    from config.model.pretrained, and the initial state is zeros. `ahead` begins to make the step's program
    on a thread. Raises ConfigError where config and data set do not fit, DataError's family for the data set,
    and WeightsError.
    """
    options = config_lib.sections(config)
    if begins:
        config_lib.check_pretrained(options.pretrained.pretrained)
        config_lib.check_frozen_weights(options)
    training, data = options.training, options.data
    train_split = open_split(data.dataset, data.train_split, data.data_dir or None)
    val_split = open_split(data.dataset, data.val_split, data.data_dir or None)
    pipeline.require_labels(val_split)
    classes = train_split.classes
    config_lib.check_class_weights(options.loss_options.class_weights, classes.names, data.dataset)
    steps = total_steps(training, len(train_split))
    on_devices = layout.make(options.run.parallelism, options.sharding)
    computed = computation(options, len(classes.names), steps, on_devices)
    model = computed.model
    shapes = state_shapes(options, computed)
    train_step = on_devices.compile(computed.train_step, shapes)
    if ahead and isinstance(on_devices, layout.Jit):
        laid = on_devices.laid(shapes, batch_shapes(training.batch_size, data.crop_size))
        train_step = made_ahead(train_step, *laid, model.dtype)
    if begins:
        state = TrainState.create(initial_variables(options, model), computed.optimizer, training)
    else:
        state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return Parts(
        options=options,
        train_split=train_split,
        val_split=val_split,
        classes=classes,
        steps_per_epoch=max(1, len(train_split) // training.batch_size),
        total_steps=steps,
        model=model,
        schedule=computed.schedule,
        optimizer=computed.optimizer,
        layout=on_devices,
        train_step=train_step,
        batches=training_batches(options, train_split, on_devices.block),
        initial_state=state,
        protocol=protocols.make(
            options.evaluation.protocol,
            model,
            base_size=options.evaluation.base_size,
            options=options.evaluation,
            crop_size=data.crop_size,
        ),
        drawn=pictures.chosen(options.run.pictures, len(val_split)),
        about={
            "config": config_lib.to_dict(config),
            "classes": classes.to_dict(),
            "provenance": version.provenance(),
        },
    )


class Computation(NamedTuple):
    """What of a run needs no data, and devices that need not be there: `plan` compiles it."""

    model: Any  # what `models.build` returns
    schedule: Schedule
    optimizer: optax.GradientTransformation
    train_step: TrainStep  # not compiled


def computation(options: Sections, num_classes: int, num_steps: int, on_devices: Layout) -> Computation:
    """The training step that a config describes, for so many classes and optimizer steps in all."""
    training = options.training
    make_model = functools.partial(
        models.build,
        num_classes,
        param_dtype=param_dtype_for(options.model.get("dtype", "float32")),
        **options.model,
    )
    schedule = schedule_for(options.optimizer, training.batch_size, num_steps)
    optimizer = make_optimizer(schedule, options.optimizer)
    train_step = make_train_step(
        make_model(axis_name=on_devices.axis_name, backbone_trains=training.freeze == "nothing"),
        optimizer,
        schedule,
        options.loss,
        options=options.loss_options,
        seed=options.run.seed,
        accumulate_steps=training.accumulate_steps,
        freeze=training.freeze,
        ema_decay=training.ema_decay,
        axis_name=on_devices.axis_name,
        gather=on_devices.gather,
        scatter=on_devices.scatter,
    )
    return Computation(make_model(), schedule, optimizer, train_step)


def training_batches(
    options: Sections, split: Split, block: tuple[int, int] = (0, 1)
) -> pipeline.TrainBatches:
    """The batches that a config trains on, of them block (index, count): an endless iterator with a state.

    How many threads and processes read is chosen for the devices of this process, where the config does not
    say it.
    """
    data, rows = options.data, options.training.batch_size // block[1]
    height, width = data.crop_size
    read_by = readers.choose(
        readers.this_machine(jax.local_device_count(), jax.default_backend() == "cpu"),
        pixels=sum(h * w for h, w in split.sizes) / len(split),
        batch_bytes=rows * height * width * 4,  # An image of three bytes a pixel, and its label.
        num_threads=data.num_threads,
        num_workers=data.num_workers,
    )
    return pipeline.train_batches(
        split,
        augmentation_of(data),
        batch_size=options.training.batch_size,
        seed=options.run.seed,
        num_threads=read_by.threads,
        num_workers=read_by.workers,
        block=block[0],
        num_blocks=block[1],
    )


def augmentation_of(data: Data) -> Augmentation:
    """The part of `config.data` that says how crops are made."""
    return Augmentation(**{f.name: getattr(data, f.name) for f in dataclasses.fields(Augmentation)})


def state_shapes(options: Sections, computed: Computation) -> TrainState:
    """The state that a config's step takes, of `jax.ShapeDtypeStruct`s."""

    height, width = options.data.crop_size

    def create(rng: jax.Array) -> TrainState:
        variables = init_variables(computed.model, rng, (height, width))
        return TrainState.create(variables, computed.optimizer, options.training)

    state = jax.eval_shape(create, jax.random.key(options.run.seed))
    # As arrays are that come from host memory: of a type that is not weak.
    strong: TrainState = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    return strong


def batch_shapes(batch_size: int, crop_size: tuple[int, ...]) -> layout.Batch:
    """The global batch that a step takes, of `jax.ShapeDtypeStruct`s."""
    return {
        "image": jax.ShapeDtypeStruct((batch_size, *crop_size, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((batch_size, *crop_size), np.uint8),
        "extent": jax.ShapeDtypeStruct((batch_size, 2), np.int32),
    }


def initial_variables(options: Sections, model: Any) -> dict[str, Any]:
    """The model's first {"params", "batch_stats"} as NumPy arrays, the same on every host."""
    rng = jax.random.key(options.run.seed)
    height, width = options.data.crop_size
    variables: dict[str, Any] = jax.device_get(init_variables(model, rng, (height, width)))
    weights = options.pretrained
    if weights.pretrained:
        variables = torch_weights.load(weights.pretrained, variables, weights.pretrained_missing)
    return variables
