"""3×3 convolutions on a CPU by Winograd's F(2×2, 3×3): 16 multiplications where the sum has 36.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), equations 7 to 12:
2×2 outputs Y come from a 4×4 tile d of the input and the kernel g as Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A. The sum
over the channels makes of ⊙ a matrix product for each of a tile's 16 elements. A convolution of dilation δ
is δ·δ convolutions of interleaved images. Axes: B batch, H and W of the image, T and S rows and columns of
tiles, C channels of the input, O of the output, N = B·T·δ·S·δ tiles.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpanet_jax.models import convolution

_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])  # Bᵀ
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])  # Aᵀ
_KERNEL_2D = np.kron(_KERNEL, _KERNEL).astype(np.float32)  # of a kernel's 9 elements in a row

# Below, what is saved does not pay for the transforms.
_LEAST_CHANNELS = 128
_LEAST_POSITIONS = 512
# Rows and columns of tiles that are not wholly of the image are computed for nothing.
_MOST_PADDING = 1.3
# The tiles of an image are four times the image: those of so many bytes are in memory at a time.
_BAND_BYTES = 2**28


def pays(x: Any, kernel: Any, dilation: int) -> bool:
    """Whether a convolution of stride 1 is faster so. `x` (B, H, W, C) and `kernel` (h, w, C, O) as arrays.

    float32 alone: float64 is for who compares numbers, and takes the sum as it is written.
    """
    batch, height, width, channels = x.shape
    padded = [2 * dilation * _tiles(length, dilation) for length in (height, width)]
    return (
        x.dtype == kernel.dtype == jnp.float32
        and kernel.shape[:2] == (3, 3)
        and kernel.shape[2] == channels
        and min(kernel.shape[2:]) >= _LEAST_CHANNELS
        and batch * height * width >= _LEAST_POSITIONS
        and padded[0] * padded[1] <= _MOST_PADDING * height * width
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """The convolution padded by its dilation: (B, H, W, C), (3, 3, C, O) → (B, H, W, O).

    On a CPU by tiles, elsewhere as XLA does it. Rounding differs from the plain sum's by a few ulps of the
    largest value.
    """
    by_tiles = partial(_by_tiles, dilation=dilation)
    plain = partial(convolution.plain, stride=1, dilation=dilation)
    return jax.lax.platform_dependent(x, kernel, cpu=by_tiles, default=plain)


def _forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, Any]:
    return convolve(x, kernel, dilation), (x, kernel)


def _backward(dilation: int, kept: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    by_tiles = partial(_gradients_by_tiles, dilation=dilation)
    plain = partial(convolution.plain_gradients, stride=1, dilation=dilation)
    return jax.lax.platform_dependent(*kept, dy, cpu=by_tiles, default=plain)


convolve.defvjp(_forward, _backward)


class _Tiles:
    """How an image (B, H, W, ·) is cut: `bands` of `rows` rows of tiles, T = bands · rows, and S columns."""

    def __init__(self, x: jax.Array, dilation: int) -> None:
        batch, self.height, self.width, channels = x.shape
        self.batch, self.dilation = batch, dilation
        count, self.columns = _tiles(self.height, dilation), _tiles(self.width, dilation)
        size = 16 * batch * count * self.columns * dilation**2 * channels * x.dtype.itemsize
        self.rows = -(-count // -(-size // _BAND_BYTES))
        self.bands = -(-count // self.rows)

    def inputs(self, x: jax.Array) -> jax.Array:
        """With zeros around it, by halves of tiles: (B, T + 1, 2, δ, S + 1, 2, δ, C)."""
        return self._halves(x, self.dilation, 1)

    def outputs(self, y: jax.Array) -> jax.Array:
        """By tiles of outputs: (B, T, 2, δ, S, 2, δ, O)."""
        return self._halves(y, 0, 0)

    def _halves(self, x: jax.Array, before: int, more: int) -> jax.Array:
        rows, columns = self.bands * self.rows + more, self.columns + more
        step = 2 * self.dilation
        after = (rows * step - self.height - before, columns * step - self.width - before)
        x = jnp.pad(x, ((0, 0), (before, after[0]), (before, after[1]), (0, 0)))
        return x.reshape(self.batch, rows, 2, self.dilation, columns, 2, self.dilation, x.shape[-1])

    def image(self, halves: jax.Array, before: int = 0) -> jax.Array:
        """The inverse of `inputs` and `outputs`: (B, H, W, ·), from so many pixels on."""
        batch, rows, _, dilation, columns, _, _, channels = halves.shape
        x = halves.reshape(batch, rows * 2 * dilation, columns * 2 * dilation, channels)
        return x[:, before : before + self.height, before : before + self.width]

    def elements(self, products: jax.Array) -> list[list[jax.Array]]:
        """(16, N, ·) → 4×4 arrays (B, rows, δ, S, δ, ·)."""
        shape = (4, 4, self.batch, self.rows, self.dilation, self.columns, self.dilation, products.shape[-1])
        products = products.reshape(shape)
        return [[products[i, j] for j in range(4)] for i in range(4)]


def _by_tiles(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    tiles = _Tiles(x, dilation)
    inputs, of_kernel = tiles.inputs(x), _transformed_kernel(kernel)

    def band(first_row: Any) -> jax.Array:
        part = jax.lax.dynamic_slice_in_dim(inputs, first_row, tiles.rows + 1, 1)
        products = jnp.einsum("knc,kco->kno", _transformed_inputs(part), of_kernel)
        y = _both_ways(_OUTPUT, tiles.elements(products))
        return _join(y, 2)

    if tiles.bands == 1:
        return tiles.image(band(0))
    y = jnp.moveaxis(jax.lax.map(band, tiles.rows * jnp.arange(tiles.bands)), 0, 1)
    return tiles.image(y.reshape(tiles.batch, -1, *y.shape[3:]))


def _gradients_by_tiles(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, dilation: int
) -> tuple[jax.Array, jax.Array]:
    tiles = _Tiles(x, dilation)
    inputs, outputs, of_kernel = tiles.inputs(x), tiles.outputs(dy), _transformed_kernel(kernel)

    def band(of_product: Any, first_row: Any) -> tuple[jax.Array, jax.Array]:
        part = jax.lax.dynamic_slice_in_dim(inputs, first_row, tiles.rows + 1, 1)
        dy = jax.lax.dynamic_slice_in_dim(outputs, first_row, tiles.rows, 1)
        quarters = [[dy[:, :, i, :, :, j] for j in range(2)] for i in range(2)]
        dm = _stack(_both_ways(_OUTPUT.T, quarters))
        du = jnp.einsum("knc,kno->kco", _transformed_inputs(part), dm)
        dv = jnp.einsum("kno,kco->knc", dm, of_kernel)
        taps = _both_ways(_INPUT.T, tiles.elements(dv))
        columns = [[_overlap(row[j], row[j + 2], 3) for j in range(2)] for row in taps]
        halves = [[_overlap(columns[i][j], columns[i + 2][j], 1) for j in range(2)] for i in range(2)]
        return of_product + du, _join(halves, 2)

    if tiles.bands == 1:
        of_product, dx = band(0, 0)
    else:
        zero = jnp.zeros(of_kernel.shape, of_kernel.dtype)
        of_product, bands = jax.lax.scan(band, zero, tiles.rows * jnp.arange(tiles.bands))
        # A band's last row of halves is the next one's first.
        shape = (tiles.batch, tiles.bands * tiles.rows, *bands.shape[3:])
        dx = jnp.moveaxis(bands[:, :, :-1], 0, 1).reshape(shape)
        dx = jnp.pad(dx, [(0, 0), (0, 1)] + [(0, 0)] * (dx.ndim - 2))
        dx = dx.at[:, tiles.rows :: tiles.rows].add(jnp.moveaxis(bands[:, :, -1], 0, 1))
    dkernel = jnp.matmul(_KERNEL_2D.T, of_product.reshape(16, -1))
    # Else XLA adds up the overlaps anew wherever the gradient is read.
    return jax.lax.optimization_barrier((tiles.image(dx, dilation), dkernel.reshape(kernel.shape)))


def _tiles(length: int, dilation: int) -> int:
    return -(-length // (2 * dilation))


def _transformed_kernel(kernel: jax.Array) -> jax.Array:
    """G g Gᵀ: (16, C, O). As one product it is a single pass over memory."""
    return jnp.matmul(_KERNEL_2D, kernel.reshape(9, -1)).reshape(16, *kernel.shape[2:])


def _transformed_inputs(halves: jax.Array) -> jax.Array:
    """Bᵀ d B of `_Tiles.inputs` or some rows of it: (16, N, C)."""
    rows, columns = halves.shape[1] - 1, halves.shape[4] - 1

    def tap(i: int, j: int) -> jax.Array:
        row, column = i // 2, j // 2
        return halves[:, row : row + rows, i % 2, :, column : column + columns, j % 2]

    return _stack(_both_ways(_INPUT, [[tap(i, j) for j in range(4)] for i in range(4)]))


def _both_ways(matrix: np.ndarray, grid: Sequence[Sequence[jax.Array]]) -> list[list[jax.Array]]:
    """M · grid · Mᵀ, of a grid of arrays."""
    columns = [_combined(matrix, column) for column in zip(*grid, strict=True)]
    return [_combined(matrix, row) for row in zip(*columns, strict=True)]


def _combined(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Each row of a matrix of 1, 0 and −1 times the parts."""
    sums = []
    for row in matrix:
        terms = [
            part if factor > 0 else jax.lax.neg(part)
            for factor, part in zip(row, parts, strict=True)
            if factor
        ]
        sums.append(reduce(jax.lax.add, terms))
    return sums


def _stack(grid: list[list[jax.Array]]) -> jax.Array:
    """4×4 arrays (B, T, δ, S, δ, ·) → (16, N, ·)."""
    stacked = jnp.stack([part for row in grid for part in row])
    return stacked.reshape(16, -1, stacked.shape[-1])


def _join(grid: list[list[jax.Array]], axis: int) -> jax.Array:
    """2×2 arrays (B, T, δ, S, δ, ·) → (B, T, 2, δ, S, 2, δ, ·)."""
    return jnp.stack([jnp.stack(row, axis + 2) for row in grid], axis)


def _overlap(first: jax.Array, second: jax.Array, axis: int) -> jax.Array:
    """The sum of the two, the second one further by one."""
    pads = [[(0, 0)] * first.ndim for _ in range(2)]
    pads[0][axis], pads[1][axis] = (0, 1), (1, 0)
    return jnp.pad(first, pads[0]) + jnp.pad(second, pads[1])
