"""From uint8 pixels to what the backbone was trained on."""

import jax
import jax.numpy as jnp
import numpy as np

# Of ImageNet, RGB in [0, 1]: what torchvision's and PyTorch-Encoding's weights expect.
MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def normalize(images: jax.Array, extent: jax.Array | None = None, dtype=jnp.float32) -> jax.Array:
    """(B, H, W, 3) pixels in [0, 255] → (pixels/255 − mean) / std, in `dtype`.

    `extent` (B, 2) integers: pixels at or beyond (height, width) are padding and become exactly 0.
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    images = (images.astype(wide) - jnp.asarray(255 * MEAN, wide)) / jnp.asarray(255 * STD, wide)
    if extent is not None:
        rows = jnp.arange(images.shape[1])[None, :, None] < extent[:, 0, None, None]
        columns = jnp.arange(images.shape[2])[None, None, :] < extent[:, 1, None, None]
        images = jnp.where((rows & columns)[..., None], images, 0)
    return images.astype(dtype)
