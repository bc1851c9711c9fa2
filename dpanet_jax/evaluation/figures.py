"""Pictures of predictions: colours, overlays, and sheets with image, label and prediction."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dpanet_jax.data.classes import colorize

_GAP = 4
_HEADER = 16


def overlay(image: np.ndarray, labels: np.ndarray, classes, opacity: float = 0.5) -> np.ndarray:
    """uint8 (H, W, 3) with the classes' colours (labels (H, W)) laid over it; 255 stays as it is."""
    mixed = (1 - opacity) * image + opacity * colorize(labels, classes)
    return np.where((labels == 255)[..., None], image, mixed.round()).astype(np.uint8)


def sheet(columns: dict, width: int = 320) -> np.ndarray:
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


def _filter(picture: np.ndarray):
    corner = picture.reshape(-1, 3)[:: max(1, picture.size // 3000)]
    flat = len(np.unique(corner, axis=0)) < 40
    return Image.Resampling.NEAREST if flat else Image.Resampling.BILINEAR


def comparison(examples, predictions, classes, width: int = 320) -> np.ndarray:
    """A sheet with image, label and prediction of each example ({"image", "label"}, ids (H, W))."""
    return sheet(
        {
            "image": [example["image"] for example in examples],
            "label": [colorize(example["label"], classes) for example in examples],
            "prediction": [colorize(prediction, classes) for prediction in predictions],
        },
        width,
    )


def save(picture: np.ndarray, path: Path) -> Path:
    """Writes a PNG: uint8 (H, W, 3) in colour or (H, W) in grey; never half a file under `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    Image.fromarray(picture).save(temporary, format="PNG")
    temporary.replace(path)
    return path
