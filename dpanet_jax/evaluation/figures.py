"""Pictures of predictions: colours, overlays, and sheets with image, label and prediction."""

from collections.abc import Iterable
from pathlib import Path
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


def overlay(image: np.ndarray, labels: np.ndarray, classes: Classes, opacity: float = 0.5) -> np.ndarray:
    """uint8 (H, W, 3) with the classes' colours (labels (H, W)) laid over it, but for ignored pixels."""
    mixed = (1 - opacity) * image + opacity * colorize(labels, classes)
    return np.where((labels == IGNORE_LABEL)[..., None], image, mixed.round()).astype(np.uint8)


def sheet(columns: dict[str, list[np.ndarray]], width: int = 320) -> np.ndarray:
    """A sheet of pictures: `columns` {heading: list of uint8 (H, W, 3)}, a row for each index.

    Every picture is scaled to `width`; nearest for flat colours, so that class borders stay crisp.
    """
    rows = list(zip(*columns.values(), strict=True))
    heights = [round(row[0].shape[0] * width / row[0].shape[1]) for row in rows]
    size = (
        len(columns) * (width + _GAP) - _GAP,
        _HEADER + sum(height + _GAP for height in heights) - _GAP,
    )
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for c, heading in enumerate(columns):
        draw.text((c * (width + _GAP) + 2, 2), heading, fill="black")
    top = _HEADER
    for row, height in zip(rows, heights, strict=True):
        for c, picture in enumerate(row):
            scaled = Image.fromarray(picture).resize((width, height), _filter(picture))
            canvas.paste(scaled, (c * (width + _GAP), top))
        top += height + _GAP
    return np.asarray(canvas)


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


def save(picture: np.ndarray, path: Path) -> Path:
    """Writes a PNG, whole or not at all: uint8 (H, W, 3) in colour or (H, W) in grey. Returns `path`."""
    with paths.replacing(path) as unfinished:
        Image.fromarray(picture).save(unfinished, format="PNG")
    return path
