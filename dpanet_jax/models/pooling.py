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

    See `pyramid_pool`, of which it is one level.
    """
    return pyramid_pool(x, (size,), mode).reshape(x.shape[0], size, size, x.shape[-1])


def pyramid_pool(x: jax.Array, sizes: Sequence[int], mode: str = "avg") -> jax.Array:
    """(B, H, W, C) → (B, T, C) with T = Σ n²: row-major within a level, levels in the order given.

    A level has the averages ("avg") or the maxima ("max") of its n × n bins. An average is separable, so it
    is two products with fixed matrices: that exports and partitions well. The product over H is one for all
    levels, so that x is read once. Sums are in at least float32 and at full precision on every device; the
    result has x's dtype. Raises OptionError for another mode.
    """
    choose("mode", mode, MODES)
    levels = (_averages if mode == "avg" else _maxima)(x, sizes)
    return jnp.concatenate([level.reshape(x.shape[0], -1, x.shape[-1]) for level in levels], axis=1)


def _averages(x: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    """(B, n, n, C) of each level."""
    _, height, width, _ = x.shape
    wide = jnp.promote_types(x.dtype, jnp.float32)
    exact: dict[str, Any] = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": wide}
    rows = jnp.asarray(np.concatenate([averaging_matrix(height, n) for n in sizes]), wide)
    of_rows = jnp.split(jnp.einsum("nh,bhwc->bnwc", rows, x, **exact), np.cumsum(sizes)[:-1], axis=1)
    columns = [jnp.asarray(averaging_matrix(width, n), wide) for n in sizes]
    pairs = zip(columns, of_rows, strict=True)
    return [jnp.einsum("mw,bnwc->bnmc", *pair, **exact).astype(x.dtype) for pair in pairs]


def _maxima(x: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    """(B, n, n, C) of each level."""
    levels = []
    for n in sizes:
        rows = jnp.stack([x[:, start:end].max(axis=1) for start, end in bins(x.shape[1], n)], axis=1)
        columns = [rows[:, :, start:end].max(axis=2) for start, end in bins(x.shape[2], n)]
        levels.append(jnp.stack(columns, axis=2))
    return levels
