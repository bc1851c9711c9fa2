"""The multi-loss: cross entropy of every head at the label's resolution.

Axes: B batch, h and w of a feature map, H and W of the image, K classes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dpanet_jax.data.classes import IGNORE_LABEL
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.models.resize import resize_bilinear


def count_valid(labels: jax.Array) -> jax.Array:
    """How many of the labels (any shape, integer) are not `IGNORE_LABEL`: int32, shape ()."""
    return jnp.sum(labels != IGNORE_LABEL, dtype=jnp.int32)


def weigh(labels: jax.Array, class_weights: tuple[float, ...] = ()) -> jax.Array:
    """How much each label counts: 0 where it is 255, its class's weight elsewhere (() for 1). Same shape."""
    if not len(class_weights):
        return (labels != IGNORE_LABEL).astype(jnp.int32)
    weights = jnp.asarray(class_weights, jnp.result_type(float))
    classes = jnp.arange(len(class_weights), dtype=labels.dtype)
    return jnp.sum(jnp.where(labels[..., None] == classes, weights, 0), axis=-1)


def cross_entropy_sum(
    logits: jax.Array,
    labels: jax.Array,
    align_corners: bool = False,
    class_weights: tuple[float, ...] = (),
) -> jax.Array:
    """Sum over valid pixels of the cross entropy times the pixel's weight, in at least float32.

    `logits` (B, h, w, K) are resized bilinearly to `labels` (B, H, W), integers in [0, K) or 255.
    A sum and not a mean: the mean's count is of the global batch, which only the caller sees.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    _, height, width = labels.shape
    logits = resize_bilinear(logits, (height, width), align_corners)
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    # A sum against the one-hot label: its gradient is elementwise, where a gather's is a scatter.
    of_label = jnp.sum(jnp.where(labels[..., None] == classes, logits, 0), axis=-1)
    negative_log_likelihood = jax.nn.logsumexp(logits, axis=-1) - of_label
    if len(class_weights):
        negative_log_likelihood *= weigh(labels, class_weights).astype(logits.dtype)
    return jnp.sum(jnp.where(labels == IGNORE_LABEL, 0, negative_log_likelihood))


def multi_loss(
    outputs: Mapping[str, jax.Array],
    labels: jax.Array,
    terms: Mapping[str, LossTerm],
    weights: Mapping[str, float],
    total_weight: jax.Array,
    align_corners: bool = False,
    class_weights: tuple[float, ...] = (),
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sum of the terms' cross entropies, and {term: value}, each a mean.

    `outputs` is what the model returns in training, and `terms` what it says of them
    (`model.loss_terms()`); `weights` {term: float} has at least these terms, and one of weight 0 is left
    out. `total_weight` () is what the means divide by, the sum of `weigh` over the global batch: the number
    of valid pixels, or, with `class_weights` (K floats), torch.nn.functional.cross_entropy's weighted mean.
    Where it is 0 the loss is 0 and its gradient is 0.
    """
    total_weight = jnp.where(total_weight > 0, total_weight, 1)
    values = {
        name: cross_entropy_sum(outputs[term.output], labels, align_corners, class_weights) / total_weight
        for name, term in terms.items()
        if weights[name]
    }
    loss: Any = sum(weights[name] * value for name, value in values.items())
    return loss, values
