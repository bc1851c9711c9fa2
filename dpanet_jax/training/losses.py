"""The multi-loss: cross entropy of every head at the label's resolution.

Axes: B batch, h and w of a feature map, H and W of the image, K classes.
"""

import jax
import jax.numpy as jnp

from dpanet_jax.models.resize import resize_bilinear

IGNORE_LABEL = 255

# Which of the model's outputs each term of the loss reads.
TERMS = {"fused": "logits", "spatial": "spatial", "channel": "channel", "auxiliary": "auxiliary"}


def count_valid(labels: jax.Array) -> jax.Array:
    """How many of the labels (any shape, integer) are not `IGNORE_LABEL`: int32, shape ()."""
    return jnp.sum(labels != IGNORE_LABEL, dtype=jnp.int32)


def weigh(labels: jax.Array, class_weights=()) -> jax.Array:
    """How much each label counts: 0 where it is 255, its class's weight elsewhere (() for 1). Same shape."""
    if not len(class_weights):
        return (labels != IGNORE_LABEL).astype(jnp.int32)
    weights = jnp.asarray(class_weights, jnp.result_type(float))
    classes = jnp.arange(len(class_weights), dtype=labels.dtype)
    return jnp.sum(jnp.where(labels[..., None] == classes, weights, 0), axis=-1)


def cross_entropy_sum(
    logits: jax.Array, labels: jax.Array, align_corners: bool = False, class_weights=()
) -> jax.Array:
    """Sum over valid pixels of the cross entropy times the pixel's weight, in at least float32.

    `logits` (B, h, w, K) are resized bilinearly to `labels` (B, H, W), integers in [0, K) or 255.
    A sum and not a mean: the mean's count is of the global batch, which only the caller sees.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits = resize_bilinear(logits, labels.shape[1:], align_corners)
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    # A sum against the one-hot label: its gradient is elementwise, where a gather's is a scatter.
    of_label = jnp.sum(jnp.where(labels[..., None] == classes, logits, 0), axis=-1)
    negative_log_likelihood = jax.nn.logsumexp(logits, axis=-1) - of_label
    if len(class_weights):
        negative_log_likelihood *= weigh(labels, class_weights).astype(logits.dtype)
    return jnp.sum(jnp.where(labels == IGNORE_LABEL, 0, negative_log_likelihood))


def multi_loss(
    outputs: dict,
    labels: jax.Array,
    weights: dict,
    total_weight: jax.Array,
    align_corners: bool = False,
    class_weights=(),
):
    """Weighted sum of the terms (SPEC, multi-loss) and the terms themselves, each a mean.

    `outputs` is what the model returns in training; `weights` {term: float} for the keys of `TERMS`;
    a term of weight 0, or whose output the model does not have, is left out. `total_weight` () is what the
    means divide by, the sum of `weigh` over the global batch: the number of valid pixels, or, with
    `class_weights` (K floats), torch.nn.functional.cross_entropy's weighted mean. Where it is 0 the loss is
    0 and its gradient is 0.
    """
    total_weight = jnp.where(total_weight > 0, total_weight, 1)
    terms = {
        term: cross_entropy_sum(outputs[output], labels, align_corners, class_weights) / total_weight
        for term, output in TERMS.items()
        if weights[term] and output in outputs
    }
    return sum(weights[term] * value for term, value in terms.items()), terms
