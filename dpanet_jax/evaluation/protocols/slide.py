"""Protocols `slide` and `multiscale`: windows of one size over an image, at one scale or several.

The class probabilities are averaged where windows overlap, brought back to the image's size and averaged over
the scales. One shape is compiled, whatever the images' sizes.

Axes: B batch, H and W of the image, h and w of the window, K classes.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpanet_jax.evaluation.protocols.devices import LocalDevices
from dpanet_jax.evaluation.protocols.windows import (
    Rect,
    Size,
    as_given,
    lower_windows,
    pixels_of,
    regrouped,
    run,
    starts,
    tiles,
)
from dpanet_jax.models.normalize import normalize
from dpanet_jax.models.precision import computing_in
from dpanet_jax.models.resize import interpolation_points, resize_bilinear

# What the host holds of an image's probabilities at a time, at the largest scale. A larger image is done
# tile by tile; windows that reach into two tiles are computed for both.
TILE_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class _Part:
    """One scale of one tile of an image."""

    size: Size  # of the scaled image
    rect: Rect  # of it, what the tile shows and its interpolation reaches
    windows: list[Rect]


class Slide:
    """Windows at one scale; see the module. `Multiscale` gives the other scales and the mirrored images."""

    name = "slide"
    fills_up = False
    takes: tuple[str, ...] = ("window", "window_stride", "window_batch")

    def __init__(
        self,
        model: Any,
        *,
        window: tuple[int, ...],
        base_size: int = 0,
        window_stride: float = 2 / 3,
        window_batch: int = 1,
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
    ) -> None:
        self.base_size = base_size
        self.window: Size = (window[0], window[1])
        self.lower = lower_windows(self.window, window_batch)
        self._strides = [max(1, round(length * window_stride)) for length in self.window]
        self._scales = scales
        self._classes = model.num_classes
        self._dtype, self._align_corners = model.dtype, model.align_corners
        self._devices = LocalDevices()
        self._rows = window_batch * self._devices.count

        def probabilities(variables: dict[str, Any], pixels: jax.Array, extent: jax.Array) -> jax.Array:
            images = normalize(pixels, extent, dtype=model.dtype)
            if flip:
                # Beside each other, so that both stay on one device.
                images = jnp.stack([images, images[:, :, ::-1]], axis=1).reshape(-1, *images.shape[1:])
            outputs = model.apply(variables, images, train=False)
            logits = resize_bilinear(outputs["logits"], self.window, model.align_corners)
            found = jax.nn.softmax(logits, axis=-1).astype(jnp.float32)
            if flip:
                found = found.reshape(-1, 2, *found.shape[1:])
                found = (found[:, 0] + found[:, 1, :, ::-1]) / 2
            return found

        self._probabilities = self._devices.compile(probabilities)

    def put(self, variables: dict[str, Any]) -> dict[str, Any]:
        """A model's variables, whole on each of this host's devices."""
        with computing_in(self._dtype):
            return self._devices.put_variables(variables, self._dtype)

    def measured(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All pixels are measured."""
        return images, labels

    def ids(self, images: Sequence[np.ndarray] | np.ndarray, variables: dict[str, Any]) -> Any:
        """Images uint8 (H, W, 3) RGB of any sizes → uint8 (H, W) class ids; (B, H, W, 3) → (B, H, W)."""
        return as_given(images, list(self._ids(images, variables)))

    def each(self, batches: Iterable[np.ndarray], variables: dict[str, Any]) -> Iterator[np.ndarray]:
        """uint8 (B, H, W, 3) after another → uint8 (B, H, W) ids; windows of several share batches."""
        return regrouped(lambda images: self._ids(images, variables), batches)

    def probabilities(self, images: Sequence[np.ndarray] | np.ndarray, variables: dict[str, Any]) -> Any:
        """As `ids`: float32 (H, W, K), or (B, H, W, K); they sum to 1 over K."""
        found = []
        for size, rect, values in self._tiles(images, variables):
            if not rect.top and not rect.left:
                found.append(np.empty((*size, values.shape[-1]), np.float32))
            found[-1][rect.top : rect.bottom, rect.left : rect.right] = values
        return as_given(images, found)

    def _ids(self, images: Iterable[np.ndarray], variables: dict[str, Any]) -> Iterator[np.ndarray]:
        for size, rect, values in self._tiles(images, variables):
            if not rect.top and not rect.left:
                ids = np.empty(size, np.uint8)
            for row in range(rect.shape[0]):  # A row at a time: argmax makes int64.
                ids[rect.top + row, rect.left : rect.right] = values[row].argmax(axis=-1)
            if (rect.bottom, rect.right) == size:
                yield ids

    def _tiles(
        self, images: Iterable[np.ndarray], variables: dict[str, Any]
    ) -> Iterator[tuple[Size, Rect, np.ndarray]]:
        """(image's size, tile, its probabilities), of each image in turn; its last tile ends it."""
        planned: collections.deque[tuple[Size, Rect, list[_Part]]] = collections.deque()

        def windows() -> Iterator[np.ndarray]:
            for image in images:
                for tile, parts in self._plan(image.shape[:2]):
                    planned.append((image.shape[:2], tile, parts))
                    for part in parts:
                        for place in part.windows:
                            yield pixels_of(image, part.size, place)

        with computing_in(self._dtype):
            results = run(self._probabilities, variables, windows(), self.window, self._rows, self._devices)
            for first in results:
                size, tile, parts = planned.popleft()
                yield size, tile, self._tile(size, tile, parts, first, results)

    def _tile(
        self, size: Size, tile: Rect, parts: list[_Part], first: np.ndarray, results: Iterator[np.ndarray]
    ) -> np.ndarray:
        """The mean over the scales, from the windows' results in their order; `first` has been taken."""
        total: np.ndarray | None = None
        result: np.ndarray | None = first
        for part in parts:
            found = np.zeros((*part.rect.shape, self._classes), np.float32)
            counts = np.zeros(part.rect.shape, np.float32)
            for place in part.windows:
                values = next(results) if result is None else result
                result = None
                common = place.common(part.rect)
                found[common.within(part.rect)] += values[common.within(place)]
                counts[common.within(part.rect)] += 1
            found /= counts[..., None]
            if part.size == size and total is None:
                total = found  # And no second array, where there is one scale.
            elif part.size == size:
                total += found
            else:
                total = np.zeros((*tile.shape, self._classes), np.float32) if total is None else total
                self._add_resized(total, found, part, size, tile)
            del found
        assert total is not None
        total /= len(parts)
        return total

    def _add_resized(self, total: np.ndarray, found: np.ndarray, part: _Part, size: Size, tile: Rect) -> None:
        """Adds a scale's probabilities at the tile's pixels, row by row so that no second tile is held."""
        corners = self._align_corners
        above, below, down = (
            x[tile.top : tile.bottom] for x in interpolation_points(part.size[0], size[0], corners)
        )
        left, right, across = (
            x[tile.left : tile.right] for x in interpolation_points(part.size[1], size[1], corners)
        )
        across = across.astype(np.float32)[:, None]
        above, below, left, right = (
            above - part.rect.top,
            below - part.rect.top,
            left - part.rect.left,
            right - part.rect.left,
        )
        for row, weight in enumerate(down.astype(np.float32)):
            line = found[above[row]] * (1 - weight) + found[below[row]] * weight
            total[row] += line[left] * (1 - across) + line[right] * across

    def _plan(self, size: Size) -> Iterator[tuple[Rect, list[_Part]]]:
        """The tiles of an image, and of each the windows at every scale."""
        resized = [self._scaled(size, scale) for scale in self._scales]
        largest = max(1.0, *(height * width / (size[0] * size[1]) for height, width in resized))
        for tile in tiles(size, int(TILE_BYTES / (4 * self._classes * largest))):
            yield tile, [self._part(size, scaled, tile) for scaled in resized]

    def _scaled(self, size: Size, scale: float) -> Size:
        factor = scale * (self.base_size / max(size) if self.base_size else 1.0)
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

    def _part(self, size: Size, scaled: Size, tile: Rect) -> _Part:
        rect = tile
        if scaled != size:
            ends = []
            for old, new, first, last in (
                (scaled[0], size[0], tile.top, tile.bottom),
                (scaled[1], size[1], tile.left, tile.right),
            ):
                low, high, _ = interpolation_points(old, new, self._align_corners)
                ends += [int(low[first]), int(high[last - 1]) + 1]
            rect = Rect(*ends)
        rows, columns = (
            [(first, min(first + length, whole)) for first in starts(whole, length, stride)]
            for whole, length, stride in zip(scaled, self.window, self._strides, strict=True)
        )
        places = [Rect(*row, *column) for row in rows for column in columns]
        return _Part(scaled, rect, [place for place in places if min(place.common(rect).shape) > 0])


class Multiscale(Slide):
    """`slide` at every scale of `scales`; with `flip`, each window and its mirror image."""

    name = "multiscale"
    takes = (*Slide.takes, "scales", "flip")
