"""A comparison from a config to its report: same weights, same inputs, on both sides."""

import itertools
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from dpanet_jax import config as config_lib
from dpanet_jax import models
from dpanet_jax.compare import flax_side, report, torch_side
from dpanet_jax.compare.differences import compare
from dpanet_jax.compare.measured import Recipe
from dpanet_jax.data import pipeline
from dpanet_jax.evaluation import inference
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.progress import progress_bar
from dpanet_jax.training.loop import training_batches
from dpanet_jax.training.losses import TERMS
from dpanet_jax.training.optimizer import scaled_lr, total_steps


class NotTheSame(RuntimeError):
    """The two sides differ by more than the bars and rounding allow; the message names what."""


PRECISIONS = ("float64", "float32")
# Of the mean IoU, in points of a hundred.
MEAN_IOU_BAR = 0.01


def run(
    config: ConfigDict,
    weights: str,
    output,
    *,
    split: str = "",
    steps: int = 10,
    precisions: tuple[str, ...] = PRECISIONS,
    max_images: int = 0,
) -> dict:
    """Compares, prints, writes OUTPUT/report.json and report.png, and returns the JSON's content.

    `weights` is a file or hf:// address as `config.model.pretrained` takes them, or "random". The batches
    are the first `steps` of training's own; `split` ("": the config's validation split) is what both mean
    IoUs are of, its first `max_images` images (0: all; -1: none). "passed" in the result says whether every
    number is within its bar. Dropout is off: the two frameworks' random numbers differ. Raises ConfigError,
    DataError's family and WeightsError before any work, and NotTheSame, when the report is written, where a
    number is off.
    """
    config, output = _checked(config, steps, precisions), Path(output)
    if output.exists() and not output.is_dir():
        raise config_lib.ConfigError(f"{output} is a file: --output must be a folder")
    data = config.data
    train_split = pipeline.open_split(data.dataset, data.train_split, data.data_dir or None)
    split = pipeline.open_split(data.dataset, split or data.val_split, data.data_dir or None)
    config_lib.check_class_weights(config, train_split.classes.names)
    recipe = _recipe(config, train_split)
    if steps > recipe.total_steps:
        raise config_lib.ConfigError(f"--steps={steps}: the config's training has {recipe.total_steps} only")
    batches = list(itertools.islice(training_batches(config, train_split), steps))
    variables, state_dict = _weights(config, recipe, weights, batches[0])
    measured = {}
    for precision in precisions:
        with jax.enable_x64(precision == "float64"):
            _say(f"{precision}: the Flax side, {steps} steps")
            ours = flax_side.measure(recipe, variables, batches, precision)
        _say(f"{precision}: the PyTorch side, {steps} steps")
        measured[precision] = (ours, torch_side.measure(recipe, state_dict, batches, precision))
    numbers = compare(measured)
    figures = _mean_ious(config, recipe, variables, state_dict, split, max_images)
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


def _checked(config: ConfigDict, steps: int, precisions) -> ConfigDict:
    config_lib.check(config)
    config = config.copy_and_resolve_references()
    config.model.dropout = 0.0
    models.build(1, **config_lib.model_options(config))
    if steps < 1:
        raise config_lib.ConfigError(f"--steps={steps}: must be 1 or more")
    for precision in precisions:
        if precision not in PRECISIONS:
            raise config_lib.ConfigError(
                f"--precision={precision}: choose {' or '.join(PRECISIONS)}, or both"
            )
    if config.training.batch_size < 2 and config.model.backbone.startswith("resnest"):
        raise config_lib.ConfigError(
            "config.training.batch_size=1: a ResNeSt's batch norm over one value a channel is refused by"
            " PyTorch; 2 or more can be compared"
        )
    return config


def _recipe(config: ConfigDict, train_split) -> Recipe:
    training, optimizer = config.training, config.optimizer
    options = config_lib.model_options(config)
    del options["dtype"]
    return Recipe(
        num_classes=len(train_split.classes.names),
        options=options,
        loss_weights={term: config.loss[term] for term in TERMS},
        class_weights=tuple(config.loss.class_weights),
        lr=scaled_lr(optimizer.lr, training.batch_size, optimizer.lr_batch_size),
        total_steps=total_steps(len(train_split), training.batch_size, training.epochs, training.steps),
        power=optimizer.power,
        warmup_steps=optimizer.warmup_steps,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        head_lr_multiplier=optimizer.head_lr_multiplier,
    )


def _weights(config: ConfigDict, recipe: Recipe, weights: str, batch: dict) -> tuple[dict, dict]:
    """The same weights for both sides: Flax variables, and the whole network's state dict.

    Each side takes a file's values by itself, so that a mistake in the table of names shows; what the file
    does not have (the heads, of a backbone's file) is random and the same.
    """
    model = models.build(recipe.num_classes, **recipe.options)
    like = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    missing = tuple(config.model.pretrained_missing)
    held = {}
    if weights != "random":
        held = torch_weights.read(weights)
        torch_weights.fit(held, like, missing, weights)  # An error of the file comes before any work.
    state_dict = torch_side.random_weights(recipe, batch, config.seed)
    variables = torch_weights.fit(state_dict, like)
    if held:
        variables = torch_weights.fit(held, variables, missing, weights)
        state_dict = torch_side.laid_over(held, state_dict)
    return variables, state_dict


def _mean_ious(config, recipe, variables, state_dict, split, max_images: int) -> dict | None:
    if max_images < 0:
        return None
    split = split if max_images == 0 else _First(split, max_images)
    base_size = config.evaluation.base_size
    predictors = {
        "flax": flax_side.predictor(recipe, variables, split.classes, base_size),
        "torch": torch_side.TwinPredictor(recipe, state_dict, base_size),
    }
    matrices = {}
    for side, predictor in predictors.items():
        _say(f"mean IoU: the {'Flax' if side == 'flax' else 'PyTorch'} side, {len(split)} images")
        matrices[side] = inference.evaluate(
            predictor, split, config.evaluation.batch_size, progress=lambda b: progress_bar(b, unit="batch")
        )
    figures = {side: 100 * m.compute(config.evaluation.absent)["mean_iou"] for side, m in matrices.items()}
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


class _First:
    """The first images of a split."""

    def __init__(self, split, count: int):
        self._split = split
        self.name, self.classes, self.sizes = split.name, split.classes, split.sizes[:count]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> dict:
        return self._split[index]


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
