"""Protocol `center_crop`: the middle of an image, as PyTorch-Encoding measures while it trains.

An image is resized, bilinear with antialiasing, until it just covers the crop, and cut to it about its
middle; a label likewise, by its nearest pixels (`_val_sync_transform` of encoding/datasets/base.py). What
lies outside of the crop is neither predicted nor measured.

Axes: B batch, H and W of the image, h and w of the crop, K classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dpanet_jax.data.classes import IGNORE_LABEL
from dpanet_jax.evaluation.protocols.devices import LocalDevices
from dpanet_jax.evaluation.protocols.windows import Size, as_given, lower_windows, regrouped, run
from dpanet_jax.models.normalize import normalize
from dpanet_jax.models.precision import computing_in
from dpanet_jax.models.resize import resize_bilinear
from dpanet_jax.options import OptionError

_BILINEAR, _NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


class CenterCrop:
    """The centre crop of each image, by itself; see the module."""

    name = "center_crop"
    fills_up = False
    takes = ("window", "window_batch")

    def __init__(
        self, model: Any, *, window: tuple[int, ...], base_size: int = 0, window_batch: int = 1
    ) -> None:
        if base_size:
            raise OptionError(
                f"base_size={base_size}: center_crop resizes the short side to its crop; leave it at 0 "
                "(--base_size=0, config.evaluation.base_size=0)"
            )
        self.base_size = 0
        self.window: Size = (window[0], window[1])
        self.lower = lower_windows(self.window, window_batch)
        self._dtype = model.dtype
        self._devices = LocalDevices()
        self._rows = window_batch * self._devices.count

        def logits(variables: dict[str, Any], pixels: jax.Array) -> jax.Array:
            outputs = model.apply(variables, normalize(pixels, dtype=model.dtype), train=False)
            return resize_bilinear(outputs["logits"], self.window, model.align_corners)

        def ids(variables: dict[str, Any], pixels: jax.Array, extent: jax.Array) -> jax.Array:
            return jnp.argmax(logits(variables, pixels), axis=-1).astype(jnp.uint8)

        def probabilities(variables: dict[str, Any], pixels: jax.Array, extent: jax.Array) -> jax.Array:
            return jax.nn.softmax(logits(variables, pixels), axis=-1).astype(jnp.float32)

        self._ids = self._devices.compile(ids)
        self._probabilities = self._devices.compile(probabilities)

    def put(self, variables: dict[str, Any]) -> dict[str, Any]:
        """A model's variables, whole on each of this host's devices."""
        with computing_in(self._dtype):
            return self._devices.put_variables(variables, self._dtype)

    def measured(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (B, H, W, 3) and (B, H, W) → their crops, (B, h, w, 3) and (B, h, w)."""
        return (
            np.stack([self._cut(image, _BILINEAR) for image in images]),
            np.stack([self._cut(label, _NEAREST) for label in labels]),
        )

    def ids(self, images: Sequence[np.ndarray] | np.ndarray, variables: dict[str, Any]) -> Any:
        """Images uint8 (H, W, 3) RGB of any sizes → uint8 (H, W) class ids; (B, H, W, 3) → (B, H, W).

        A pixel has the id of the nearest one of the crop, and 255 where the crop does not show it.
        """
        return as_given(images, list(self._at_images(self._ids, images, variables, IGNORE_LABEL)))

    def each(self, batches: Iterable[np.ndarray], variables: dict[str, Any]) -> Iterator[np.ndarray]:
        """uint8 (B, H, W, 3) after another → uint8 (B, H, W) ids; crops of several share batches."""
        return regrouped(lambda images: self._at_images(self._ids, images, variables, IGNORE_LABEL), batches)

    def probabilities(self, images: Sequence[np.ndarray] | np.ndarray, variables: dict[str, Any]) -> Any:
        """As `ids`: float32 (H, W, K), or (B, H, W, K); they sum to 1 over K, outside of the crop to 0."""
        return as_given(images, list(self._at_images(self._probabilities, images, variables, 0)))

    def _at_images(
        self, function: Any, images: Iterable[np.ndarray], variables: dict[str, Any], outside: int
    ) -> Iterator[np.ndarray]:
        """What `function` finds of each image's crop, at the image's own pixels."""
        sizes: list[Size] = []

        def crops() -> Iterator[np.ndarray]:
            for image in images:
                sizes.append(image.shape[:2])
                yield self._cut(image, _BILINEAR)

        with computing_in(self._dtype):
            found = run(function, variables, crops(), self.window, self._rows, self._devices)
            for number, values in enumerate(found):
                yield self._placed(values, sizes[number], outside)

    def _placed(self, values: np.ndarray, size: Size, outside: int) -> np.ndarray:
        """Of the crop (h, w, …) → of the image (H, W, …)."""
        if size == self.window:
            return values
        placed = np.full((*size, *values.shape[2:]), outside, values.dtype)
        shown, nearest = [], []
        for length, scaled, first, crop in zip(
            size, _covering(size, self.window), self._corner(size), self.window, strict=True
        ):
            places = (2 * np.arange(length) + 1) * scaled // (2 * length) - first
            inside = (places >= 0) & (places < crop)
            shown.append(np.flatnonzero(inside))
            nearest.append(places[inside])
        placed[np.ix_(*shown)] = values[np.ix_(*nearest)]
        return placed

    def _corner(self, size: Size) -> Size:
        """(top, left) of the crop in the resized image."""
        height, width = _covering(size, self.window)
        return round((height - self.window[0]) / 2), round((width - self.window[1]) / 2)

    def _cut(self, pixels: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
        if pixels.shape[:2] == self.window:
            return pixels
        height, width = _covering(pixels.shape[:2], self.window)
        resized = np.asarray(Image.fromarray(pixels).resize((width, height), resampling))
        top, left = self._corner(pixels.shape[:2])
        return resized[top : top + self.window[0], left : left + self.window[1]]


def _covering(size: Size, crop: Size) -> Size:
    """The size of an image resized until one side is the crop's and the other at least as long."""
    if size[1] * crop[0] > size[0] * crop[1]:
        return crop[0], size[1] * crop[0] // size[0]
    return size[0] * crop[1] // size[1], crop[1]
