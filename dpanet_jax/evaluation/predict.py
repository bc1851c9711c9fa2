"""Predictions for image files, as PNGs."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dpanet_jax.data import images
from dpanet_jax.data.classes import colorize
from dpanet_jax.errors import UsageError
from dpanet_jax.evaluation import figures
from dpanet_jax.evaluation.trained import TrainedModel


def check_output(output: Path) -> None:
    """Raises UsageError where `output` cannot be a folder, for a file of that name is there."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file: --output must be a folder")


def predict_files(
    model: TrainedModel,
    found: dict[Path, Path],
    output: Path,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> None:
    """Writes for each image of `found` (what `data.images.find` returns) three PNGs under `output`.

    `ids/NAME.png` holds class ids (8-bit grey), `color/NAME.png` the classes' colours, and
    `overlay/NAME.png` these over the image. Raises ImageError naming a file that cannot be read.
    """
    for name, path in progress(found.items()):
        image = images.read_image(path)
        labels = model.predict(image)
        for kind, picture in (
            ("ids", labels),
            ("color", colorize(labels, model.classes)),
            ("overlay", figures.overlay(image, labels, model.classes)),
        ):
            figures.save(picture, (output / kind / name).with_name(name.name + ".png"))
