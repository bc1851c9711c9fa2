"""Bilinear resizing as torch.nn.functional.interpolate does it, without antialiasing."""

import jax
import jax.numpy as jnp
import numpy as np


def interpolation_matrix(old: int, new: int, align_corners: bool = False) -> np.ndarray:
    """(new, old) float64: row i holds the two weights of output position i."""
    position = np.arange(new, dtype=np.float64)
    if align_corners:
        source = position * ((old - 1) / (new - 1)) if new > 1 else np.zeros(1)
    else:
        source = np.maximum((position + 0.5) * (old / new) - 0.5, 0)
    low = np.minimum(np.floor(source).astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    weight = source - low
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), low), 1 - weight)
    np.add.at(matrix, (np.arange(new), high), weight)
    return matrix


def resize_bilinear(x: jax.Array, size, align_corners: bool = False) -> jax.Array:
    """(B, h, w, C) → (B, H, W, C) for `size` (H, W): two products with fixed matrices, in x's dtype."""
    height, width = size
    highest = jax.lax.Precision.HIGHEST
    if x.shape[1] != height:
        rows = jnp.asarray(interpolation_matrix(x.shape[1], height, align_corners), x.dtype)
        x = jnp.einsum("Hh,bhwc->bHwc", rows, x, precision=highest)
    if x.shape[2] != width:
        columns = jnp.asarray(interpolation_matrix(x.shape[2], width, align_corners), x.dtype)
        x = jnp.einsum("Ww,bhwc->bhWc", columns, x, precision=highest)
    return x
