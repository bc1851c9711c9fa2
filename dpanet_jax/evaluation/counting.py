"""The confusion matrix, counted on this host's devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dpanet_jax.data.classes import IGNORE_LABEL
from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.evaluation.protocols.devices import LocalDevices

# Pixels that each device counts at a time. Whatever sizes the images have, one shape is compiled.
CHUNK = 2**18


class DeviceCounts:
    """Counts (label, prediction) pairs as `ConfusionMatrix` does, on the devices.

    Pixels are gathered until every device has its chunk. A chunk's counts are int32, which hold them; the
    sum over the chunks is the host's, in int64.
    """

    def __init__(self, num_classes: int, chunk: int = CHUNK) -> None:
        self._matrix = ConfusionMatrix(num_classes)
        self._chunk = chunk
        self._devices = LocalDevices()
        self._pending: jax.Array | None = None
        self._labels, self._predictions = self._empty()
        self._filled = 0

    def add(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Takes uint8 arrays of one shape; labels are in [0, K) or 255, which is not counted.

        Raises ValueError for another type, and where the shapes differ.
        """
        if labels.shape != predictions.shape:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ in shape")
        if labels.dtype != np.uint8 or predictions.dtype != np.uint8:
            raise ValueError(f"labels {labels.dtype} and predictions {predictions.dtype} must be uint8")
        labels, predictions = labels.reshape(-1), predictions.reshape(-1)
        taken = 0
        while taken < len(labels):
            some = min(len(labels) - taken, len(self._labels) - self._filled)
            here, there = slice(self._filled, self._filled + some), slice(taken, taken + some)
            self._labels[here], self._predictions[here] = labels[there], predictions[there]
            taken, self._filled = taken + some, self._filled + some
            if self._filled == len(self._labels):
                self._count()

    def matrix(self) -> ConfusionMatrix:
        """All pairs that were added. Raises ValueError where one was outside [0, K)."""
        if self._filled:
            self._count()
        self._take_in()
        return self._matrix

    def _empty(self) -> tuple[np.ndarray, np.ndarray]:
        size = self._devices.count * self._chunk
        return np.full(size, IGNORE_LABEL, np.uint8), np.zeros(size, np.uint8)

    def _count(self) -> None:
        rows = (
            self._devices.put_rows(pixels.reshape(self._devices.count, self._chunk))
            for pixels in (self._labels, self._predictions)
        )
        counted = _pairs(*rows, num_classes=self._matrix.num_classes)
        self._take_in()  # Of the chunk before: the devices count this one meanwhile.
        self._pending = counted
        # Not the same buffers again: the devices may still read them, and on a CPU share them.
        self._labels, self._predictions = self._empty()
        self._filled = 0

    def _take_in(self) -> None:
        if self._pending is None:
            return
        counted, self._pending = np.asarray(self._pending).astype(np.int64).sum(axis=0), None
        classes = self._matrix.num_classes
        if counted[-1]:
            raise ValueError(f"{counted[-1]} labels or predictions are outside [0, {classes})")
        self._matrix.counts += counted[: classes**2].reshape(classes, classes)


@functools.partial(jax.jit, static_argnames="num_classes")
def _pairs(labels: jax.Array, predictions: jax.Array, *, num_classes: int) -> jax.Array:
    """uint8 (devices, pixels) twice → int32 (devices, K² + 2).

    Last come the ignored pixels, and those of which the label or the prediction cannot be.
    """

    def of_one(labels: jax.Array, predictions: jax.Array) -> jax.Array:
        ignored, wrong = num_classes**2, num_classes**2 + 1
        row, column = labels.astype(jnp.int32), predictions.astype(jnp.int32)
        place = row * num_classes + column
        place = jnp.where((row < num_classes) & (column < num_classes), place, wrong)
        place = jnp.where(row == IGNORE_LABEL, ignored, place)
        return jnp.zeros(num_classes**2 + 2, jnp.int32).at[place].add(1, mode="promise_in_bounds")

    return jax.vmap(of_one)(labels, predictions)
