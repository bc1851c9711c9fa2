"""Windows of images: where they lie, their pixels at any scale, and full batches of them on the devices.

Sizes and places are (height, width) and (top, left) in pixels.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from dpanet_jax.evaluation.protocols.devices import LocalDevices

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Rect:
    """Rows top to bottom - 1 and columns left to right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> Size:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    def common(self, other: "Rect") -> "Rect":
        """What lies in both; where nothing does, its height or width is below 1."""
        return Rect(
            max(self.top, other.top),
            min(self.bottom, other.bottom),
            max(self.left, other.left),
            min(self.right, other.right),
        )

    def within(self, outer: "Rect") -> tuple[slice, slice]:
        """Where it lies in an array that holds `outer`."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows of an axis begin: every `stride`, the last one moved back to the axis's end."""
    if length <= window:
        return [0]
    count = -(-(length - window) // stride) + 1
    return [min(i * stride, length - window) for i in range(count)]


def tiles(size: Size, most: int) -> list[Rect]:
    """An image cut into parts of at most `most` pixels (or single ones): longer sides are halved first."""
    return _halved(Rect(0, size[0], 0, size[1]), most)


def _halved(rect: Rect, most: int) -> list[Rect]:
    height, width = rect.shape
    if height * width <= max(1, most):
        return [rect]
    if height >= width:
        middle = rect.top + height // 2
        parts = [dataclasses.replace(rect, bottom=middle), dataclasses.replace(rect, top=middle)]
    else:
        middle = rect.left + width // 2
        parts = [dataclasses.replace(rect, right=middle), dataclasses.replace(rect, left=middle)]
    return [small for part in parts for small in _halved(part, most)]


def pixels_of(image: np.ndarray, size: Size, rect: Rect) -> np.ndarray:
    """The part `rect` of an image uint8 (H, W, 3) that is resized to `size`: float32, in [0, 255].

    Bilinear, antialiased where it shrinks. Only the part is computed, from what it shows of the image.
    """
    if size == image.shape[:2]:
        return image[rect.within(Rect(0, *size[:1], 0, size[1]))].astype(np.float32)
    ratio = image.shape[0] / size[0], image.shape[1] / size[1]
    ends = []
    for first, last, scale, length in (
        (rect.top, rect.bottom, ratio[0], image.shape[0]),
        (rect.left, rect.right, ratio[1], image.shape[1]),
    ):
        margin = int(max(1, scale)) + 2  # As far as the filter reaches.
        low, high = max(0, int(first * scale) - margin), min(length, int(last * scale) + 1 + margin)
        ends.append((low, high, first * scale - low, min(last * scale, length) - low))
    (top, bottom, upper, lower), (left, right, near, far) = ends
    source = image[top:bottom, left:right]
    height, width = rect.shape
    channels = [
        Image.fromarray(np.ascontiguousarray(source[..., c], np.float32)).resize(
            (width, height), Image.Resampling.BILINEAR, box=(near, upper, far, lower)
        )
        for c in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def run(
    function: Callable[[Any, jax.Array, jax.Array], jax.Array],
    variables: Any,
    windows: Iterable[np.ndarray],
    window: Size,
    rows: int,
    devices: LocalDevices,
) -> Iterator[np.ndarray]:
    """`function` of every window in turn, in batches of `rows` whatever images they come from.

    function(variables, pixels (rows, *window, 3), extent (rows, 2)). A smaller window is padded at the right
    and bottom; its extent says how much of it is image. The last batch is filled up.
    """
    waiting: tuple[int, jax.Array] | None = None
    for batch in _batches(windows, rows):
        pixels = np.zeros((rows, *window, 3), batch[0].dtype)
        extent = np.zeros((rows, 2), np.int32)
        for row, part in enumerate(batch):
            height, width = part.shape[:2]
            pixels[row, :height, :width] = part
            extent[row] = height, width
        result = function(variables, devices.put_rows(pixels), devices.put_rows(extent))
        # The devices compute this batch while the host takes in the one before.
        if waiting is not None:
            yield from np.asarray(waiting[1])[: waiting[0]]
        waiting = len(batch), result
    if waiting is not None:
        yield from np.asarray(waiting[1])[: waiting[0]]


def _batches(windows: Iterable[np.ndarray], rows: int) -> Iterator[list[np.ndarray]]:
    batch: list[np.ndarray] = []
    for part in windows:
        batch.append(part)
        if len(batch) == rows:
            yield batch
            batch = []
    if batch:
        yield batch


def regrouped(
    function: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]], batches: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """`function`, which maps images one after another, of batches: what it finds of each batch, stacked."""
    counts: collections.deque[int] = collections.deque()

    def images() -> Iterator[np.ndarray]:
        for batch in batches:
            counts.append(len(batch))
            yield from batch

    done: list[np.ndarray] = []
    for found in function(images()):
        done.append(found)
        if len(done) == counts[0]:
            yield np.stack(done)
            counts.popleft()
            done = []


def as_given(images: Sequence[np.ndarray] | np.ndarray, found: list[np.ndarray]) -> Any:
    """An array where the images were one, else the list."""
    return np.stack(found) if isinstance(images, np.ndarray) else found


def lower_windows(window: Size, window_batch: int) -> str:
    """What to lower where the memory does not suffice for the windows of a device, in words."""
    if window_batch > 1:
        return f"the windows at a time, now {window_batch} (--window_batch, config.evaluation.window_batch)"
    return f"the window, now {window[0]},{window[1]} (--window, config.evaluation.window)"
