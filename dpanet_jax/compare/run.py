"""A comparison from a config to its report: same weights, same inputs, on both sides."""

import dataclasses
import itertools
import sys
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dpanet_jax import config as config_lib
from dpanet_jax import models
from dpanet_jax.compare import flax_side, report, torch_side
from dpanet_jax.compare.differences import compare
from dpanet_jax.compare.measured import Recipe
from dpanet_jax.config import ConfigError, Sections
from dpanet_jax.data import pipeline
from dpanet_jax.data.split import Split
from dpanet_jax.errors import DPANetError, UsageError
from dpanet_jax.evaluation import protocols
from dpanet_jax.evaluation.evaluate import evaluate
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.interop import twin
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.options import OptionError
from dpanet_jax.paths import AnyPath, require_writable
from dpanet_jax.progress import progress_bar
from dpanet_jax.training.build import training_batches
from dpanet_jax.training.optimizer import total_steps


class NotTheSame(DPANetError, RuntimeError):
    """The two sides differ by more than the bars and rounding allow; the message names what."""


PRECISIONS = ("float64", "float32")
# Of the mean IoU, in points of a hundred.
MEAN_IOU_BAR = 0.01


def run(
    config: ConfigDict,
    weights: str,
    output: AnyPath,
    *,
    split: str = "",
    steps: int = 10,
    precisions: tuple[str, ...] = PRECISIONS,
    max_images: int = 0,
) -> dict[str, Any]:
    """Compares, prints, writes OUTPUT/report.json and report.png, and returns the JSON's content.

    `weights` is a file or hf:// address as `config.model.pretrained` takes them, or "random". The batches
    are the first `steps` of training's own; `split` ("": the config's validation split) is what both mean
    IoUs are of, its first `max_images` images (0: all; -1: none). "passed" in the result says whether every
    number is within its bar. Dropout is off: the two frameworks' random numbers differ. Raises UsageError
    (ConfigError, OptionError), DataError's family and WeightsError before any work, and NotTheSame, when the
    report is written, where a number is off.
    """
    _require_sound(steps, precisions, output)
    config = _without_dropout(config)
    options = config_lib.sections(config)
    _require_twin(options)
    data = options.data
    train_split = pipeline.open_split(data.dataset, data.train_split, data.data_dir or None)
    class_weights = options.loss_options.class_weights
    config_lib.check_class_weights(class_weights, train_split.classes.names, data.dataset)
    evaluated = pipeline.open_split(data.dataset, split or data.val_split, data.data_dir or None)
    if max_images >= 0:
        pipeline.require_labels(evaluated)
    recipe = _recipe(options, train_split)
    if steps > recipe.total_steps:
        raise UsageError(f"--steps={steps}: the config's training has {recipe.total_steps} only")
    batches = list(itertools.islice(training_batches(options, train_split), steps))
    variables, state_dict = _weights(options, recipe, weights, batches[0])
    measured = {}
    for precision in precisions:
        with jax.enable_x64(precision == "float64"):
            _say(f"{precision}: the Flax side, {steps} steps")
            ours = flax_side.measure(recipe, variables, batches, precision)
        _say(f"{precision}: the PyTorch side, {steps} steps")
        measured[precision] = (ours, torch_side.measure(recipe, state_dict, batches, precision))
    numbers = compare(measured)
    figures = None
    if max_images >= 0:
        figures = _mean_ious(options, recipe, variables, state_dict, _First.of(evaluated, max_images))
    about = {
        "weights": weights,
        "dataset": data.dataset,
        "train_split": data.train_split,
        "images_of_a_batch": list(batches[0]["image"].shape),
        "steps": steps,
        "config": config_lib.to_dict(config),
    }
    content = report.content(numbers, figures, about)
    report.write(content, numbers, output)
    report.show(content, numbers)
    print(f"written to {output / 'report.json'} and {output / 'report.png'}")
    off = report.failures(content)
    if off:
        more = f" and {len(off) - 4} more" if len(off) > 4 else ""
        raise NotTheSame(f"{len(off)} numbers are off: {', '.join(off[:4])}{more}")
    return content


def _require_sound(steps: int, precisions: Iterable[str], output: AnyPath) -> None:
    if steps < 1:
        raise UsageError(f"--steps={steps}: must be 1 or more")
    for precision in precisions:
        if precision not in PRECISIONS:
            raise UsageError(f"--precision={precision}: choose {' or '.join(PRECISIONS)}, or both")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file: --output must be a folder")
    require_writable(output)


def _without_dropout(config: ConfigDict) -> ConfigDict:
    """A copy of the config, which is checked first."""
    config_lib.check_config(config)
    config = config.copy_and_resolve_references()
    config.model.dropout = 0.0
    return config


def _require_twin(options: Sections) -> None:
    try:
        twin.require_twin(options.model)
    except OptionError as error:
        raise ConfigError(f"config.model.{error}") from error
    if options.optimizer.name != "sgd":
        raise ConfigError(f"config.optimizer.name={options.optimizer.name}: the twin has sgd only")
    rates = ("lr", "lr_batch_size", "head_lr_multiplier", "power", "warmup_steps")
    _require_default("optimizer", options.optimizer, but=(*rates, "momentum", "weight_decay"))
    _require_default("loss", options.loss_options, but=("class_weights",))
    of_runs = ("batch_size", "epochs", "steps", "accumulate_steps", "patience")
    _require_default("training", options.training, but=of_runs)
    if options.training.batch_size < 2 and options.model["backbone"].startswith("resnest"):
        raise ConfigError(
            "config.training.batch_size=1: a ResNeSt's batch norm over one value a channel is refused by"
            " PyTorch; 2 or more can be compared"
        )


def _require_default(section: str, options: Any, but: tuple[str, ...] = ()) -> None:
    """Raises ConfigError for what the twin has no counterpart of, in a section of the config."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name not in but and value != field.default:
            raise ConfigError(
                f"config.{section}.{field.name}={value!r}: the twin has none; leave it at its default, "
                f"{field.default!r}, to compare"
            )


def _recipe(options: Sections, train_split: Split) -> Recipe:
    return Recipe(
        num_classes=len(train_split.classes.names),
        options={key: value for key, value in options.model.items() if key != "dtype"},
        loss_weights=options.loss,
        class_weights=options.loss_options.class_weights,
        optimizer=options.optimizer,
        batch_size=options.training.batch_size,
        total_steps=total_steps(options.training, len(train_split)),
    )


def _weights(
    options: Sections, recipe: Recipe, weights: str, batch: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The same weights for both sides: Flax variables, and the whole network's state dict.

    Each side takes a file's values by itself, so that a mistake in the table of names shows; what the file
    does not have (the heads, of a backbone's file) is random and the same.
    """
    model = models.build(recipe.num_classes, **recipe.options)
    shapes = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    missing = options.pretrained.pretrained_missing
    held: dict[str, np.ndarray] = {}
    if weights != "random":
        held = torch_weights.read(weights)
        # An error of the file comes before any work; prefixes and other projects' names are gone then.
        held = torch_weights.matched_to(held, like, missing, weights).weights
    state_dict = torch_side.random_weights(recipe, batch, options.run.seed)
    variables = torch_weights.fit(state_dict, like)
    if held:
        variables = torch_weights.fit(held, variables, ("*",), weights)
        state_dict = torch_side.laid_over(held, state_dict)
    return variables, state_dict


def _mean_ious(
    options: Sections,
    recipe: Recipe,
    variables: dict[str, Any],
    state_dict: dict[str, np.ndarray],
    split: Split,
) -> dict[str, Any]:
    """The mean IoU of both sides in float32, each by evaluation's own pass over the split."""
    base_size = options.evaluation.base_size
    model = models.build(recipe.num_classes, **recipe.options)
    ours = protocols.make(torch_side.TwinWhole.name, model, base_size=base_size)
    theirs = torch_side.TwinWhole(recipe, base_size)
    in_float32 = jax.tree.map(lambda x: np.asarray(x, np.float32), variables)
    sides = {
        "flax": ("Flax", ours, ours.put(in_float32)),
        "torch": ("PyTorch", theirs, theirs.put(state_dict)),
    }
    matrices = {}
    for side, (title, protocol, put) in sides.items():
        _say(f"mean IoU: the {title} side, {len(split)} images")
        evaluated = evaluate(protocol, put, split, options.evaluation.batch_size, progress=_with_progress)
        matrices[side] = evaluated.matrix
    figures = {side: 100 * m.compute(options.evaluation.absent)["mean_iou"] for side, m in matrices.items()}
    difference = abs(figures["flax"] - figures["torch"])
    counts = [matrix.counts for matrix in matrices.values()]
    return {
        "split": split.name,
        "images": len(split),
        "base_size": base_size,
        **figures,
        "difference": difference,
        "bar": MEAN_IOU_BAR,
        # At least so many, as the matrices tell it.
        "pixels_that_differ": int(np.abs(counts[0] - counts[1]).sum() // 2),
        "pixels": int(counts[0].sum()),
        "passed": bool(difference <= MEAN_IOU_BAR),
    }


def _with_progress(batches: Iterable[Any]) -> Iterable[Any]:
    return progress_bar(batches, unit="batch")


class _First(Split):
    """The first images of a split."""

    def __init__(self, split: Split, count: int) -> None:
        super().__init__(
            split.name, split.classes, split.sizes[:count], split.fingerprint, None, split.labelled
        )
        self._split = split

    @classmethod
    def of(cls, split: Split, count: int) -> Split:
        """The split's first `count` images; all of them where it is 0."""
        return cls(split, count) if count else split

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._split[index]


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
