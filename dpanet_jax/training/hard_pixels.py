"""Online hard example mining: which pixels of the global batch count."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpanet_jax.data.classes import IGNORE_LABEL
from dpanet_jax.training.options import Loss


def kept(nll: jax.Array, labels: jax.Array, options: Loss, over_devices: Callable[[Any], Any]) -> jax.Array:
    """Whether each pixel counts, (B, H, W) bool; `nll` (B, H, W) is −log of its label's probability.

    Those do whose label's probability is below `ohem_threshold`, and in any case the `ohem_min_kept` · images
    hardest valid pixels of the global batch, with all that are as hard as the last of these. Without such
    ties it is the rule of mmsegmentation's OHEMPixelSampler, for the batch of all devices, over which
    `over_devices` sums. None of it has a gradient.
    """
    nll, valid = jax.lax.stop_gradient(nll), labels != IGNORE_LABEL
    # −0 and what rounding leaves below 0 are 0: the order of the bits is that of the numbers.
    nll = jnp.abs(jnp.maximum(nll, 0))
    images = over_devices(jnp.asarray(labels.shape[0], jnp.int32))
    num_valid = over_devices(jnp.sum(valid, dtype=jnp.int32))
    # Clipped before the product: it may be beyond an int32.
    per_image = min(options.ohem_min_kept, labels.shape[1] * labels.shape[2])
    count = jnp.minimum(per_image * images, num_valid)
    last = nth_largest(nll, valid, count, over_devices)
    return valid & ((jnp.exp(-nll) < options.ohem_threshold) | (nll >= last))


def nth_largest(
    values: jax.Array, among: jax.Array, count: jax.Array, over_devices: Callable[[Any], Any]
) -> jax.Array:
    """The `count`-th largest (from 1) of the values ≥ 0 for which `among` is True, over all devices: ().

    NaN where `count` is 0. By bisection over the bits of the number: devices exchange a count for each bit,
    and neither sort nor gather the pixels.
    """
    whole = jnp.int64 if values.dtype.itemsize == 8 else jnp.int32
    digits = values.dtype.itemsize * 8 - 1  # without the sign
    bits = jax.lax.bitcast_convert_type(values, whole)

    def one_digit(i: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | jax.lax.shift_left(jnp.ones((), whole), (digits - 1 - i).astype(whole))
        larger = over_devices(jnp.sum(among & (bits >= candidate), dtype=jnp.int32))
        return jnp.where(larger >= count, candidate, found)

    found = jax.lax.fori_loop(0, digits, one_digit, jnp.zeros((), whole))
    return jax.lax.bitcast_convert_type(found, values.dtype)
