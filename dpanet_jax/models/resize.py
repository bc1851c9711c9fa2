"""Bilinear resizing as torch.nn.functional.interpolate does it, without antialiasing."""

import jax
import jax.numpy as jnp
import numpy as np


def interpolation_points(
    old: int, new: int, align_corners: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(low, high, weight), each (new,): output i is input low · (1 - weight) + input high · weight."""
    position = np.arange(new, dtype=np.float64)
    if align_corners:
        source = position * ((old - 1) / (new - 1)) if new > 1 else np.zeros(1)
    else:
        source = np.maximum((position + 0.5) * (old / new) - 0.5, 0)
    low = np.minimum(np.floor(source).astype(int), old - 1)
    return low, np.minimum(low + 1, old - 1), source - low


def interpolation_matrix(old: int, new: int, align_corners: bool = False) -> np.ndarray:
    """(new, old) float64: row i holds the two weights of output position i."""
    low, high, weight = interpolation_points(old, new, align_corners)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), low), 1 - weight)
    np.add.at(matrix, (np.arange(new), high), weight)
    return matrix


def resize_bilinear(x: jax.Array, size: tuple[int, int], align_corners: bool = False) -> jax.Array:
    """(B, h, w, C) → (B, H, W, C) for `size` (H, W), in x's dtype: two products with fixed matrices.

    Sums are in at least float32 and at full precision on every device.
    """
    dtype, wide = x.dtype, jnp.promote_types(x.dtype, jnp.float32)
    for axis, product in ((1, "Hh,bhwc->bHwc"), (2, "Ww,bhwc->bhWc")):
        old, new = x.shape[axis], size[axis - 1]
        if old != new:
            matrix = jnp.asarray(interpolation_matrix(old, new, align_corners), wide)
            x = jnp.einsum(
                product, matrix, x, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide
            )
    return x.astype(dtype)
