"""Protocol `whole`: one scale, the whole image at its own size; compiled once for each size.

Axes: B batch, H and W of the image, K classes.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpanet_jax.evaluation.protocols.devices import LocalDevices
from dpanet_jax.models.normalize import normalize
from dpanet_jax.models.precision import computing_in
from dpanet_jax.models.resize import resize_bilinear


class Whole:
    """The image goes through the network in one piece, its logits are resized to it."""

    name = "whole"
    fills_up = True
    takes: tuple[str, ...] = ()
    lower = "the size of the images (--base_size, config.evaluation.base_size)"

    def __init__(self, model: Any, *, base_size: int = 0) -> None:
        self.base_size = base_size
        self._dtype = model.dtype
        self._devices = LocalDevices()

        def logits(variables: dict[str, Any], images: jax.Array) -> jax.Array:
            outputs = model.apply(variables, prepared(images, base_size, model.dtype), train=False)
            height, width = images.shape[1:3]
            return resize_bilinear(outputs["logits"], (height, width), model.align_corners)

        def ids(variables: dict[str, Any], images: jax.Array) -> jax.Array:
            return jnp.argmax(logits(variables, images), axis=-1).astype(jnp.uint8)

        def probabilities(variables: dict[str, Any], images: jax.Array) -> jax.Array:
            return jax.nn.softmax(logits(variables, images), axis=-1).astype(jnp.float32)

        self._ids = self._devices.compile(ids)
        self._probabilities = self._devices.compile(probabilities)

    def put(self, variables: dict[str, Any]) -> dict[str, Any]:
        """A model's variables, whole on each of this host's devices."""
        with computing_in(self._dtype):
            return self._devices.put_variables(variables, self._dtype)

    def measured(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All pixels are measured."""
        return images, labels

    def ids(self, images: np.ndarray, variables: dict[str, Any]) -> np.ndarray:
        """uint8 (B, H, W, 3) RGB → uint8 (B, H, W) class ids."""
        with computing_in(self._dtype):
            return np.asarray(self._ids(variables, self._devices.put_rows(images)))

    def probabilities(self, images: np.ndarray, variables: dict[str, Any]) -> np.ndarray:
        """uint8 (B, H, W, 3) RGB → float32 (B, H, W, K); they sum to 1 over K."""
        with computing_in(self._dtype):
            return np.asarray(self._probabilities(variables, self._devices.put_rows(images)))

    def each(self, batches: Iterable[np.ndarray], variables: dict[str, Any]) -> Iterator[np.ndarray]:
        """`ids` of one batch after another."""
        return (self.ids(images, variables) for images in batches)


def prepared(images: jax.Array, base_size: int, dtype: jnp.dtype) -> jax.Array:
    """Normalised images, their long side scaled to `base_size` (antialiased, as Pillow does; 0: not)."""
    height, width = images.shape[1:3]
    if base_size and base_size != max(height, width):
        factor = base_size / max(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        shape = (images.shape[0], *size, 3)
        images = jax.image.resize(
            images.astype(jnp.promote_types(dtype, jnp.float32)), shape, "linear", antialias=True
        )
    return normalize(images, dtype=dtype)
