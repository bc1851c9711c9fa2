"""Training augmentation of an image and its label together: the recipe's flip, scale, pad, crop.

Pure functions of their arguments and a NumPy Generator. Images are (H, W, 3) uint8 RGB, labels
(H, W) uint8 train ids, of which IGNORE_LABEL is ignored.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from dpanet_jax.data.classes import IGNORE_LABEL
from dpanet_jax.data.images import Encoded
from dpanet_jax.data.options import Augmentation
from dpanet_jax.imagenet import MEAN

# (top, left, height, width) of a part of an image, in pixels.
Window: TypeAlias = tuple[int, int, int, int]

# How often a crop that one class fills is drawn anew, as in mmsegmentation.
REDRAWS = 10

# So many times as large as what it is scaled to, an image is decoded at least, with `reduced_decoding`.
REDUCING_GAP = 2

# ImageNet's mean colour, rounded to whole pixel values: where `extent` is not applied, padding is
# within 0.01 of normalised zero all the same.
PAD_COLOR = tuple(round(255 * level) for level in MEAN)


def augment(
    example: Mapping[str, Any], rng: np.random.Generator, augmentation: Augmentation
) -> dict[str, np.ndarray]:
    """Flips, scales, pads on the right and bottom, and crops an image and its label alike.

    example: {"image": (H, W, 3) uint8 or an `Encoded`, "label": (H, W) uint8}. The long side becomes
    base_size · uniform(scale_range) pixels. Returns {"image": crop_size + (3,) uint8, "label":
    crop_size uint8, "extent": (2,) int32}: extent is the height and width of the top left part that
    shows the image. Outside it the label is IGNORE_LABEL and the image PAD_COLOR, for the model to zero.

    Half of the images are blurred by a Gaussian of uniform(0, blur) pixels; `photometric` takes
    color_jitter. 0 switches either off. `cat_max_ratio` below 1 is of `draw_crop`.

    The image is resized bilinearly by Pillow, whose filter widens when it reduces (antialiasing);
    the label takes the nearest pixel of the same grid. Only the crop is computed: Pillow's `box`
    gives the same pixels, to a rounding, as resizing the whole and then cropping. An `Encoded` JPEG is
    decoded as small as `reduction_for` allows.

    Source: the paper's recipe as PyTorch-Encoding's base dataset does it, in its order.
    """
    image, label = example["image"], example["label"]
    height, width = label.shape
    mirrored = augmentation.flip & (rng.random() < 0.5)
    low, high = augmentation.scale_range
    long_side = max(1, round(augmentation.base_size * rng.uniform(low, high)))
    scaled_h = max(1, round(long_side * height / max(height, width)))
    scaled_w = max(1, round(long_side * width / max(height, width)))
    crop_h, crop_w = augmentation.crop_size
    scaled = (scaled_h, scaled_w)
    window, ids = draw_crop(label, scaled, (crop_h, crop_w), rng, augmentation.cat_max_ratio)
    extent_h, extent_w = window[2:]
    reduction = 1
    if isinstance(image, Encoded):
        reduction = reduction_for(label.shape, scaled) if image.is_jpeg else 1
        image = image.pixels(reduction)
    pixels = resize_image(image, scaled, window, (height / reduction, width / reduction))
    if mirrored:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        ids = ids[:, ::-1]
    if augmentation.color_jitter:
        pixels = photometric(pixels, rng, augmentation.color_jitter)
    if augmentation.blur and rng.random() < 0.5:
        pixels = pixels.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, augmentation.blur)))

    padded = np.empty((crop_h, crop_w, 3), np.uint8)
    padded[:] = PAD_COLOR
    padded[:extent_h, :extent_w] = np.asarray(pixels)
    padded_ids = np.full((crop_h, crop_w), IGNORE_LABEL, np.uint8)
    padded_ids[:extent_h, :extent_w] = ids
    return {
        "image": padded,
        "label": padded_ids,
        "extent": np.array([extent_h, extent_w], np.int32),
    }


def draw_crop(
    label: np.ndarray,
    size: tuple[int, int],
    crop_size: tuple[int, int],
    rng: np.random.Generator,
    cat_max_ratio: float = 1.0,
) -> tuple[Window, np.ndarray]:
    """A random window of `crop_size` in an image scaled to `size`, no larger than it, and its label there.

    label: (H, W) uint8 train ids, at the image's own size. With `cat_max_ratio` below 1 a window is drawn
    anew, up to REDRAWS times, until it shows more than one class and none has that part of its valid pixels;
    the last one is taken as it is. With 1 nothing is looked at or drawn beyond the first window.

    Source: `cat_max_ratio` of mmsegmentation's RandomCrop.
    """
    (height, width), (crop_h, crop_w) = size, crop_size
    extent_h, extent_w = min(crop_h, height), min(crop_w, width)
    redraws = REDRAWS if cat_max_ratio < 1 and (extent_h, extent_w) != size else 0
    while True:
        top, left = int(rng.integers(height - extent_h + 1)), int(rng.integers(width - extent_w + 1))
        window = (top, left, extent_h, extent_w)
        ids = resize_label(label, size, window)
        if not redraws or is_mixed(ids, cat_max_ratio):
            return window, ids
        redraws -= 1


def is_mixed(ids: np.ndarray, cat_max_ratio: float) -> bool:
    """Whether train ids (h, w) show several classes, each of them less than this part of the valid pixels."""
    counts = np.array(Image.fromarray(ids).histogram())
    counts[IGNORE_LABEL] = 0
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < cat_max_ratio)


def reduction_for(shape: tuple[int, int], size: tuple[int, int]) -> int:
    """How many times smaller an image of `shape` may be decoded to be scaled to `size`: 8, 4, 2 or 1.

    It stays REDUCING_GAP times as large as `size`, so that the scaling's own filter has most of the work.
    """
    spare = min(shape[0] / size[0], shape[1] / size[1]) / REDUCING_GAP
    return next((reduction for reduction in (8, 4, 2) if reduction <= spare), 1)


def resize_image(
    image: np.ndarray, size: tuple[int, int], window: Window, extent: tuple[float, float] | None = None
) -> Image.Image:
    """Bilinear resize of (h, w, 3) uint8 to `size` (height, width), of which `window` is returned.

    window: top, left, height and width in pixels of the resized image. extent: height and width of what the
    image shows, in its own pixels, where it is not h and w: the last row and column of a reduced image may
    show less than a pixel's worth.
    """
    height, width = extent or image.shape[:2]
    top, left, window_h, window_w = window
    y, x = height / size[0], width / size[1]
    box = (
        left * x,
        top * y,
        min(width, (left + window_w) * x),
        min(height, (top + window_h) * y),
    )
    return Image.fromarray(image).resize((window_w, window_h), Image.Resampling.BILINEAR, box=box)


def resize_label(label: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    """Nearest-neighbour resize of (H, W) on the grid of `resize_image`; its arguments."""
    top, left, window_h, window_w = window
    rows = (2 * np.arange(top, top + window_h) + 1) * label.shape[0] // (2 * size[0])
    columns = (2 * np.arange(left, left + window_w) + 1) * label.shape[1] // (2 * size[1])
    return label.take(rows, axis=0).take(columns, axis=1)


def photometric(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Brightness, contrast and saturation × uniform(1 ± strength); hue ± strength/10 of the circle.

    In that order, on an RGB image; strength in [0, 1].
    """
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1.0 - strength, 1.0 + strength))
    shift = math.floor(rng.uniform(-0.1, 0.1) * strength * 256)
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
