"""From images to class ids: one path for training's validation, `evaluate`, `predict` and `load()`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dpanet_jax.data import pipeline
from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.models.normalize import normalize
from dpanet_jax.models.resize import resize_bilinear

PROTOCOLS = ("whole",)


class Predictor:
    """Class ids for images of any size, under protocol `whole`.

    `model` is a Segmenter, `classes` what it tells apart, `base_size` the long side in pixels that an
    image is resized to before the network (0: its own size). Runs on this host's devices. `variables`
    may be given once here or at each call.
    """

    def __init__(self, model, classes, *, base_size: int = 0, variables: dict | None = None):
        self.classes = classes
        self._mesh = Mesh(np.asarray(jax.local_devices()), ("data",), axis_types=(AxisType.Auto,))
        self._whole = NamedSharding(self._mesh, PartitionSpec())
        self._split = NamedSharding(self._mesh, PartitionSpec("data"))
        self.variables = None if variables is None else self.put(variables)

        def predict(variables, images):
            size = images.shape[1:3]
            outputs = model.apply(variables, _resized(images, base_size, model.dtype), train=False)
            logits = resize_bilinear(outputs["logits"], size, model.align_corners)
            return jnp.argmax(logits, axis=-1).astype(jnp.uint8)

        self._predict = jax.jit(predict)

    def put(self, variables: dict) -> dict:
        """The variables, whole on each of this host's devices."""
        return jax.device_put(variables, self._whole)

    def predict_batch(self, images: np.ndarray, variables: dict | None = None) -> np.ndarray:
        """uint8 (B, H, W, 3) → uint8 (B, H, W) class ids. A batch that splits over devices is split."""
        variables = self.variables if variables is None else variables
        even = len(images) % self._mesh.size == 0
        images = jax.device_put(images, self._split if even else self._whole)
        return np.asarray(self._predict(variables, images))

    def predict(self, images):
        """One image uint8 (H, W, 3), or a list of them, of any sizes → uint8 (H, W) each.

        Raises ValueError for another type or shape.
        """
        if not isinstance(images, list | tuple):
            return self.predict([images])[0]
        return [self.predict_batch(check_image(image)[None])[0] for image in images]


def _resized(images, base_size: int, dtype):
    """Normalised images, their long side scaled to `base_size` (antialiased, as Pillow does)."""
    height, width = images.shape[1:3]
    if base_size and base_size != max(height, width):
        factor = base_size / max(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        shape = (images.shape[0], *size, 3)
        images = jax.image.resize(images.astype(jnp.float32), shape, "linear", antialias=True)
    return normalize(images, dtype=dtype)


def check_image(image) -> np.ndarray:
    """The image as an array, or ValueError: it must be uint8 (H, W, 3), RGB."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"an image must be uint8 (height, width, 3), RGB; got {image.dtype} {image.shape}")
    return image


def evaluate(
    predictor: Predictor, split, batch_size: int, variables: dict | None = None, progress=iter
) -> ConfusionMatrix:
    """The confusion matrix of a whole split: every image once, padding never, over all processes.

    `split` is what `data.pipeline.open_split` returns; `progress` wraps the iterable of batches.
    """
    matrix = ConfusionMatrix(len(split.classes.names))
    batches = pipeline.eval_batches(
        split, batch_size, process_index=jax.process_index(), process_count=jax.process_count()
    )
    for batch in progress(batches):
        predictions = predictor.predict_batch(batch["image"], variables)
        matrix.update(batch["label"][batch["mask"]], predictions[batch["mask"]])
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        # int64 would be cut to int32 on the way without x64: two halves travel instead.
        halves = np.stack([matrix.counts >> 31, matrix.counts & (2**31 - 1)]).astype(np.int32)
        high, low = np.asarray(multihost_utils.process_allgather(halves), np.int64).sum(axis=0)
        matrix = ConfusionMatrix(matrix.num_classes, (high << 31) + low)
    return matrix
