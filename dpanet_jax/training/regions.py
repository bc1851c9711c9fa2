"""Losses of whole regions: soft Dice and Lovász-Softmax, of each image by itself.

An image's loss is the mean over the classes that its labels show, and 0 where no pixel is valid; ignored
pixels do not count. As each image has its own, neither devices nor parts of a batch change the numbers. Class
weights do not enter. Axes: B batch, H and W of the image, N = H · W, K classes.
"""

import jax
import jax.numpy as jnp

from dpanet_jax.data.classes import IGNORE_LABEL


def dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1 − 2 Σ p·y / (Σ p + Σ y) of every class, averaged: (B, H, W, K) and (B, H, W) → (B,).

    p is the softmax, y the one-hot label; the sums are over the valid pixels of an image. Milletari et al.,
    arXiv 1606.04797, with p and y in place of their squares, as Sudre et al., arXiv 1707.03237.
    """
    probabilities, is_label, valid = _flat(logits, labels)
    inside = jnp.sum(jnp.where(is_label, probabilities, 0), axis=1)
    both = jnp.sum(jnp.where(valid[..., None], probabilities, 0), axis=1) + jnp.sum(is_label, axis=1)
    return _mean_of_present(1 - 2 * inside / jnp.where(both > 0, both, 1), is_label)


def lovasz(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The Lovász extension of 1 − IoU at the errors |y − p|, averaged over classes: → (B,).

    Berman et al., arXiv 1705.08790, equations 8, 9 and 11, with their `classes="present"` and
    `per_image=True`. The pixels of every image are sorted once a class.
    """
    probabilities, is_label, valid = _flat(logits, labels)
    errors = jnp.where(is_label, 1 - probabilities, jnp.where(valid[..., None], probabilities, 0))
    fixed = jnp.moveaxis(jax.lax.stop_gradient(errors), -1, 0)

    def weigh(of_class: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _lovasz_weights(*of_class, valid)

    weights = jax.lax.map(weigh, (fixed, jnp.moveaxis(is_label, -1, 0)))
    return _mean_of_present(jnp.einsum("bnk,kbn->bk", errors, weights, precision="highest"), is_label)


def _lovasz_weights(errors: jax.Array, is_label: jax.Array, valid: jax.Array) -> jax.Array:
    """The gradient of one class's extension by its errors, all (B, N), at each pixel's own place."""
    keys = jnp.where(valid, -errors, 1)  # The ignored come last, where the weights are 0.
    places = jax.lax.broadcasted_iota(jnp.int32, keys.shape, 1)
    _, hits, places = jax.lax.sort((keys, is_label.astype(errors.dtype), places), dimension=1, num_keys=1)
    total = jnp.sum(hits, axis=1, keepdims=True)
    intersection = total - jnp.cumsum(hits, axis=1)
    union = total + jnp.cumsum(1 - hits, axis=1)
    jaccard = 1 - intersection / union
    steps = jnp.diff(jaccard, axis=1, prepend=0)
    weights: jax.Array = jax.lax.sort((places, steps), dimension=1, num_keys=1)[1]
    return weights


def _flat(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Probabilities (B, N, K), whether each class is the label's (B, N, K), and valid pixels (B, N)."""
    batch, _, _, classes = logits.shape
    probabilities = jax.nn.softmax(logits, axis=-1).reshape(batch, -1, classes)
    labels = labels.reshape(batch, -1)
    return probabilities, labels[..., None] == jnp.arange(classes, dtype=labels.dtype), labels != IGNORE_LABEL


def _mean_of_present(losses: jax.Array, is_label: jax.Array) -> jax.Array:
    """(B, K) → (B,): the mean over the classes that an image's labels show."""
    present = jnp.any(is_label, axis=1)
    return jnp.sum(jnp.where(present, losses, 0), axis=1) / jnp.maximum(jnp.sum(present, axis=1), 1)
