"""Pyramid pooling, the paper's Pool Unit (section 3.2, eq. 7), with PyTorch's bins.

Axes: B batch, H and W of a feature map, C channels, n pooled positions an axis, T pooled positions in all.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpanet_jax.options import choose

MODES = ("avg", "max")
EVEN = (1, 4, 8, 10, 12)
ODD = (1, 5, 7, 9, 13)
assert sum(n * n for n in EVEN) == sum(n * n for n in ODD) == 325  # eq. 7


def bins(length: int, n: int) -> list[tuple[int, int]]:
    """Start and end of each of the `n` bins of an axis: floor(i·S/n) and ceil((i+1)·S/n).

    Bins overlap where n does not divide S; they are those of torch.nn.AdaptiveAvgPool2d.
    """
    return [(i * length // n, -((i + 1) * length // -n)) for i in range(n)]


def averaging_matrix(length: int, n: int) -> np.ndarray:
    """(n, S) float64: row i averages bin i."""
    matrix = np.zeros((n, length))
    for i, (start, end) in enumerate(bins(length, n)):
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def adaptive_pool(x: jax.Array, size: int, mode: str = "avg") -> jax.Array:
    """(B, H, W, C) → (B, size, size, C), the average ("avg") or the maximum ("max") of each bin.

    An average is separable, so it is two products with fixed matrices: that exports and partitions
    well. Sums are in at least float32 and at full precision on every device; the result has x's dtype.
    Raises OptionError for another mode.
    """
    choose("mode", mode, MODES)
    if mode == "max":
        x = jnp.stack([x[:, s:e].max(axis=1) for s, e in bins(x.shape[1], size)], axis=1)
        return jnp.stack([x[:, :, s:e].max(axis=2) for s, e in bins(x.shape[2], size)], axis=2)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rows = jnp.asarray(averaging_matrix(x.shape[1], size), wide)
    columns = jnp.asarray(averaging_matrix(x.shape[2], size), wide)
    exact: dict[str, Any] = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": wide}
    pooled = jnp.einsum("nh,bhwc->bnwc", rows, x, **exact)
    return jnp.einsum("mw,bnwc->bnmc", columns, pooled, **exact).astype(x.dtype)


def pyramid_pool(x: jax.Array, sizes: Sequence[int], mode: str = "avg") -> jax.Array:
    """(B, H, W, C) → (B, T, C) with T = Σ n²: row-major within a level, levels in the order given."""
    batch, _, _, channels = x.shape
    levels = [adaptive_pool(x, n, mode).reshape(batch, n * n, channels) for n in sizes]
    return jnp.concatenate(levels, axis=1)
