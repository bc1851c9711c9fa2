"""From uint8 pixels to what the backbone was trained on."""

import jax
import jax.numpy as jnp
import numpy as np

from dpanet_jax.imagenet import MEAN, STD


def normalize(
    images: jax.Array, extent: jax.Array | None = None, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """(B, H, W, 3) pixels in [0, 255] → (pixels/255 − mean) / std of ImageNet, in `dtype`.

    `extent` (B, 2) integers: pixels at or beyond (height, width) are padding and become exactly 0.
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    mean, std = (jnp.asarray(255 * np.array(values), wide) for values in (MEAN, STD))
    images = (images.astype(wide) - mean) / std
    if extent is not None:
        rows = jnp.arange(images.shape[1])[None, :, None] < extent[:, 0, None, None]
        columns = jnp.arange(images.shape[2])[None, None, :] < extent[:, 1, None, None]
        images = jnp.where((rows & columns)[..., None], images, 0)
    return images.astype(dtype)
