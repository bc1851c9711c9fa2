"""The multi-loss: every head's loss at the label's resolution, by default its cross entropy.

Axes: B batch, h and w of a feature map, H and W of the image, K classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpanet_jax.config import ConfigError
from dpanet_jax.data.classes import IGNORE_LABEL
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.models.resize import resize_bilinear
from dpanet_jax.training import hard_pixels, regions
from dpanet_jax.training.options import Loss

_PLAIN = Loss()


class Totals(NamedTuple):
    """What the means divide by, of the global batch; devices' and parts' shares add up."""

    weight: jax.Array  # (): the sum of `weigh` over the pixels
    images: jax.Array | None = None  # () int32: those with a valid pixel; None where no mean is over images


def totals(labels: jax.Array, options: Loss = _PLAIN) -> Totals:
    """The totals of these labels (B, H, W)."""
    images = None
    if options.dice or options.lovasz:
        images = jnp.sum(jnp.any(labels != IGNORE_LABEL, axis=(1, 2)), dtype=jnp.int32)
    return Totals(jnp.sum(weigh(labels, options.class_weights)), images)


def require_whole_batches(options: Loss, accumulate_steps: int) -> None:
    """Raises ConfigError where a loss needs all of a batch at once, and it is computed in parts."""
    if options.ohem_threshold and accumulate_steps > 1:
        raise ConfigError(
            f"config.training.accumulate_steps={accumulate_steps}: OHEM compares the pixels of a whole batch;"
            " set it to 1, or config.loss.ohem_threshold to 0"
        )


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


def at_label_resolution(logits: jax.Array, labels: jax.Array, align_corners: bool = False) -> jax.Array:
    """(B, h, w, K) → (B, H, W, K) for `labels` (B, H, W), bilinearly, in at least float32."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    _, height, width = labels.shape
    return resize_bilinear(logits, (height, width), align_corners)


def negative_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """−log of the label's probability at each pixel, (B, H, W, K) and (B, H, W) → (B, H, W).

    It means nothing where the label is 255.
    """
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    # A sum against the one-hot label: its gradient is elementwise, where a gather's is a scatter.
    of_label = jnp.sum(jnp.where(labels[..., None] == classes, logits, 0), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - of_label


def pixel_losses(nll: jax.Array, logits: jax.Array, labels: jax.Array, options: Loss = _PLAIN) -> jax.Array:
    """Each pixel's loss times its weight, 0 where the label is 255: (B, H, W).

    `nll` is `negative_log_likelihood` of the others. With `focal_gamma` it is (1 − p)^gamma · nll, where p is
    the label's probability (Lin et al., arXiv 1708.02002, equation 4, of a softmax). With `label_smoothing` ε
    it is torch.nn.functional.cross_entropy's: (1 − ε) · w(label) · nll + ε/K · Σ over the classes of w ·
    −log p.
    """
    loss = nll
    if options.focal_gamma:
        # Not 0, where a power below 1 has no gradient.
        missing = jnp.maximum(-jnp.expm1(-nll), jnp.finfo(nll.dtype).tiny)
        loss *= missing**options.focal_gamma
    if len(options.class_weights):
        loss *= weigh(labels, options.class_weights).astype(nll.dtype)
    if options.label_smoothing:
        num_classes = logits.shape[-1]
        weights = jnp.asarray(options.class_weights or (1.0,) * num_classes, nll.dtype)
        log_probabilities = jax.nn.log_softmax(logits, axis=-1)
        spread = -jnp.sum(weights * log_probabilities, axis=-1) / num_classes
        loss = (1 - options.label_smoothing) * loss + options.label_smoothing * spread
    return jnp.where(labels == IGNORE_LABEL, 0, loss)


def cross_entropy_sum(
    logits: jax.Array, labels: jax.Array, align_corners: bool = False, options: Loss = _PLAIN
) -> jax.Array:
    """Sum of `pixel_losses`, in at least float32.

    `logits` (B, h, w, K) are resized bilinearly to `labels` (B, H, W), integers in [0, K) or 255.
    A sum and not a mean: the mean's count is of the global batch, which only the caller sees.
    """
    logits = at_label_resolution(logits, labels, align_corners)
    return jnp.sum(pixel_losses(negative_log_likelihood(logits, labels), logits, labels, options))


def multi_loss(
    outputs: Mapping[str, jax.Array],
    labels: jax.Array,
    terms: Mapping[str, LossTerm],
    weights: Mapping[str, float],
    total: Totals,
    align_corners: bool = False,
    options: Loss = _PLAIN,
    over_devices: Callable[[Any], Any] = lambda x: x,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sum of the terms' losses, and {term: value}, each this batch's share of a mean.

    `outputs` is what the model returns in training, and `terms` what it says of them
    (`model.loss_terms()`); `weights` {term: float} has at least these terms, and one of weight 0 is left
    out. A term's value is the sum of its cross entropy, Dice and Lovász losses times their weights in
    `options`. `total` is `totals` of the global batch: the cross entropy is a mean over its valid pixels, or,
    with class weights, torch.nn.functional.cross_entropy's weighted mean; with OHEM, over those that are
    kept. The losses of `regions` are means over its images. Where no pixel is valid the loss is 0 and its
    gradient is 0. `over_devices` sums an array over the devices that share the global batch, where each sees
    its part.
    """
    values = {
        name: _term(outputs[term.output], labels, total, align_corners, options, over_devices)
        for name, term in terms.items()
        if weights[name]
    }
    loss: Any = sum(weights[name] * value for name, value in values.items())
    return loss, values


def _term(
    logits: jax.Array,
    labels: jax.Array,
    total: Totals,
    align_corners: bool,
    options: Loss,
    over_devices: Callable[[Any], Any],
) -> jax.Array:
    logits = at_label_resolution(logits, labels, align_corners)
    parts: list[tuple[float, jax.Array]] = []
    if options.cross_entropy:
        nll = negative_log_likelihood(logits, labels)
        losses, total_weight = pixel_losses(nll, logits, labels, options), total.weight
        if options.ohem_threshold:
            kept = hard_pixels.kept(nll, labels, options, over_devices)
            losses = jnp.where(kept, losses, 0)
            kept_labels = jnp.where(kept, labels, IGNORE_LABEL)
            total_weight = over_devices(jnp.sum(weigh(kept_labels, options.class_weights)))
        parts.append((options.cross_entropy, jnp.sum(losses) / jnp.where(total_weight > 0, total_weight, 1)))
    if total.images is not None:
        images = jnp.maximum(total.images, 1)
        for weight, losses_of in ((options.dice, regions.dice), (options.lovasz, regions.lovasz)):
            if weight:
                parts.append((weight, jnp.sum(losses_of(logits, labels)) / images))
    value: Any = sum(part if weight == 1 else weight * part for weight, part in parts)
    return value
