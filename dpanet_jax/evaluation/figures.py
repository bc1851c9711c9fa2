"""Pictures of predictions: colours, overlays, and sheets with image, label and prediction."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from dpanet_jax import paths
from dpanet_jax.data.classes import IGNORE_LABEL, Classes, colorize


class Kept(NamedTuple):
    """One example as it was evaluated: uint8 (H, W, 3), and (H, W) class ids of label and prediction."""

    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


_GAP = 4
_HEADER = 16
_BLOCK = 2**20
# No picture of a sheet is taller than this many times its width.
_TALLEST = 3


def overlay(image: np.ndarray, labels: np.ndarray, classes: Classes, opacity: float = 0.5) -> np.ndarray:
    """uint8 (H, W, 3) with the classes' colours (labels (H, W)) laid over it, but for ignored pixels."""
    over = np.empty(image.shape, np.uint8)
    # A few rows at a time: as floating point, a large image is eight times as large again.
    rows = max(1, _BLOCK // max(1, image.shape[1]))
    for top in range(0, image.shape[0], rows):
        part, ids = image[top : top + rows], labels[top : top + rows]
        mixed = (1 - opacity) * part + opacity * colorize(ids, classes)
        over[top : top + rows] = np.where((ids == IGNORE_LABEL)[..., None], part, mixed.round())
    return over


def sheet(columns: dict[str, list[np.ndarray]], width: int = 320) -> np.ndarray:
    """A sheet of pictures: `columns` {heading: list of uint8 (H, W, 3)}, a row for each index.

    Every picture is scaled to `width`, a very tall one to less; nearest for flat colours, so that class
    borders stay crisp.
    """
    rows = list(zip(*columns.values(), strict=True))
    sizes = [_fitted(row[0].shape[0], row[0].shape[1], width) for row in rows]
    size = (
        len(columns) * (width + _GAP) - _GAP,
        _HEADER + sum(height + _GAP for height, _ in sizes) - _GAP,
    )
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for c, heading in enumerate(columns):
        draw.text((c * (width + _GAP) + 2, 2), heading, fill="black")
    top = _HEADER
    for row, (height, scaled_width) in zip(rows, sizes, strict=True):
        for c, picture in enumerate(row):
            scaled = Image.fromarray(picture).resize((scaled_width, height), _filter(picture))
            canvas.paste(scaled, (c * (width + _GAP), top))
        top += height + _GAP
    return np.asarray(canvas)


def _fitted(height: int, width: int, most: int) -> tuple[int, int]:
    """(height, width) of a picture in a sheet whose columns are `most` pixels wide."""
    factor = min(most / width, _TALLEST * most / height)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _filter(picture: np.ndarray) -> Image.Resampling:
    corner = picture.reshape(-1, 3)[:: max(1, picture.size // 3000)]
    flat = len(np.unique(corner, axis=0)) < 40
    return Image.Resampling.NEAREST if flat else Image.Resampling.BILINEAR


def comparison(kept: Iterable[Kept], classes: Classes, width: int = 320) -> np.ndarray:
    """A sheet with image, label and prediction of each example that an evaluation kept."""
    rows = list(kept)
    return sheet(
        {
            "image": [row.image for row in rows],
            "label": [colorize(row.label, classes) for row in rows],
            "prediction": [colorize(row.prediction, classes) for row in rows],
        },
        width,
    )


def save(picture: np.ndarray, path: paths.AnyPath) -> paths.AnyPath:
    """Writes a PNG, whole or not at all: uint8 (H, W, 3) in colour or (H, W) in grey. Returns `path`.

    Raises OSError naming the file.
    """
    try:
        with paths.replacing(path) as unfinished:
            Image.fromarray(picture).save(unfinished, format="PNG")
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        # A full disk is said of a write, which knows of no name.
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path
