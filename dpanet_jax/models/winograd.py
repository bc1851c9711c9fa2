"""3×3 convolutions on a CPU by Winograd's F(2×2, 3×3): 16 multiplications where the sum has 36.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), equations 7 to 12:
2×2 outputs Y come from a 4×4 tile d of the input and the kernel g as Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A. The sum
over the channels makes of ⊙ a matrix product for each of a tile's 16 elements. A convolution of dilation δ
is δ·δ convolutions of interleaved images. Axes: B batch, H and W of the image, T and S rows and columns of
tiles, C channels of the input, O of the output, N = B·T·δ·S·δ tiles.

To cut an image into tiles, and Bᵀ·B, are one sparse matrix for the rows and one for the columns; so are
Aᵀ·A and to put the outputs together. The gradients take the same matrices transposed. Each is one pass over
memory that XLA makes one kernel of, which keeps a network with many convolutions quick to compile.
"""

from functools import cache, partial
from typing import Any, NamedTuple

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


def _by_tiles(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    cut, of_kernel = _Cut.of(x, dilation), _transformed_kernel(kernel)

    def band(part: jax.Array) -> jax.Array:
        products = jnp.einsum("knc,kco->kno", cut.inputs.tiles(part), of_kernel)
        return cut.outputs.image(products)

    if cut.bands == 1:
        return band(x)
    padded = cut.padded(x)
    y = jax.lax.map(lambda i: band(cut.of_band(padded, i)), jnp.arange(cut.bands))
    y = jnp.moveaxis(y, 0, 1)
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, : x.shape[1]]


def _gradients_by_tiles(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, dilation: int
) -> tuple[jax.Array, jax.Array]:
    cut, of_kernel = _Cut.of(x, dilation), _transformed_kernel(kernel)

    def band(part: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        dm = cut.outputs.transposed().tiles(dy)
        du = jnp.einsum("knc,kno->kco", cut.inputs.tiles(part), dm)
        dv = jnp.einsum("kno,kco->knc", dm, of_kernel)
        return cut.inputs.transposed().image(dv), du

    def add_band(sums: tuple[jax.Array, jax.Array], i: Any) -> tuple[tuple[jax.Array, jax.Array], None]:
        dx, du = band(cut.of_band(padded[0], i), cut.of_band(padded[1], i, overlap=False))
        # The last rows of a band are the next one's first.
        of_rows = cut.of_band(sums[0], i) + dx
        return (
            jax.lax.dynamic_update_slice_in_dim(sums[0], of_rows, i * cut.band_rows, 1),
            sums[1] + du,
        ), None

    if cut.bands == 1:
        dx, du = band(x, dy)
    else:
        padded = cut.padded(x), cut.padded(dy, before=0)
        zeros = jnp.zeros_like(padded[0]), jnp.zeros_like(of_kernel)
        (dx, du), _ = jax.lax.scan(add_band, zeros, jnp.arange(cut.bands))
        dx = dx[:, dilation : dilation + x.shape[1]]
    dkernel = jnp.matmul(_KERNEL_2D.T, du.reshape(16, -1))
    # Else XLA computes the gradient anew wherever it is read.
    return jax.lax.optimization_barrier((dx, dkernel.reshape(kernel.shape)))


def _tiles(length: int, dilation: int) -> int:
    return -(-length // (2 * dilation))


def _transformed_kernel(kernel: jax.Array) -> jax.Array:
    """G g Gᵀ: (16, C, O). As one product it is a single pass over memory."""
    return jnp.matmul(_KERNEL_2D, kernel.reshape(9, -1)).reshape(16, *kernel.shape[2:])


class _Transform(NamedTuple):
    """A matrix for the rows, another for the columns of an image: between it and its tiles' elements."""

    rows: np.ndarray
    columns: np.ndarray

    def transposed(self) -> "_Transform":
        return _Transform(self.rows.T, self.columns.T)

    def tiles(self, image: jax.Array) -> jax.Array:
        """(B, H, W, ·) → (16, N, ·), by matrices (4·T·δ, H) and (4·S·δ, W)."""
        elements = self._applied(image)
        batch, rows, columns, channels = elements.shape
        elements = elements.reshape(batch, 4, rows // 4, 4, columns // 4, channels)
        return elements.transpose(1, 3, 0, 2, 4, 5).reshape(16, -1, channels)

    def image(self, products: jax.Array) -> jax.Array:
        """(16, N, ·) → (B, H, W, ·), by matrices (H, 4·T·δ) and (W, 4·S·δ)."""
        rows, columns, channels = self.rows.shape[1], self.columns.shape[1], products.shape[-1]
        elements = products.reshape(4, 4, -1, rows // 4, columns // 4, channels)
        return self._applied(elements.transpose(2, 0, 3, 1, 4, 5).reshape(-1, rows, columns, channels))

    def _applied(self, x: jax.Array) -> jax.Array:
        return _product(self.columns, _product(self.rows, x, 1), 2)


class _Cut(NamedTuple):
    """How the rows of an image are cut: into `bands` bands of `band_rows` rows, and how one becomes tiles."""

    inputs: _Transform
    outputs: _Transform
    dilation: int
    bands: int
    band_rows: int

    @classmethod
    def of(cls, x: jax.Array, dilation: int) -> "_Cut":
        batch, height, width, channels = x.shape
        count, columns = _tiles(height, dilation), _tiles(width, dilation)
        size = 16 * batch * count * columns * dilation**2 * channels * x.dtype.itemsize
        rows = -(-count // -(-size // _BAND_BYTES))
        bands = -(-count // rows)
        band_rows = rows * 2 * dilation
        if bands == 1:
            of_rows = _cut(rows, dilation, height, dilation), _put_together(rows, dilation, height)
        else:
            # A band has zeros, or its neighbours' rows, before and after it.
            whole = band_rows + 2 * dilation
            of_rows = _cut(rows, dilation, whole, 0), _put_together(rows, dilation, band_rows)
        of_columns = _cut(columns, dilation, width, dilation), _put_together(columns, dilation, width)
        inputs, outputs = (_Transform(*pair) for pair in zip(of_rows, of_columns, strict=True))
        return cls(inputs, outputs, dilation, bands, band_rows)

    def padded(self, x: jax.Array, before: int | None = None) -> jax.Array:
        """With zeros before its rows, δ if not said, and after them: all bands and 2δ rows."""
        before = self.dilation if before is None else before
        after = self.bands * self.band_rows + 2 * self.dilation - before - x.shape[1]
        return jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0)))

    def of_band(self, padded: jax.Array, i: Any, overlap: bool = True) -> jax.Array:
        """The rows of band i, and where they overlap the next one's first 2δ."""
        length = self.band_rows + (2 * self.dilation if overlap else 0)
        return jax.lax.dynamic_slice_in_dim(padded, i * self.band_rows, length, 1)


@cache
def _cut(count: int, dilation: int, length: int, before: int) -> np.ndarray:
    """(4·count·δ, length): a line of pixels to Bᵀ of its tiles, which begin so many pixels before it."""
    halves = np.zeros((4, count, 2 * count + 2))
    for tile in range(count):
        halves[:, tile, 2 * tile : 2 * tile + 4] = _INPUT
    matrix = np.kron(halves.reshape(4 * count, -1), np.eye(dilation))
    return matrix[:, before : before + length]


@cache
def _put_together(count: int, dilation: int, length: int) -> np.ndarray:
    """(length, 4·count·δ): the elements of a line of tiles to Aᵀ of them, side by side."""
    halves = np.zeros((2 * count, 4, count))
    for tile in range(count):
        halves[2 * tile : 2 * tile + 2, :, tile] = _OUTPUT
    return np.kron(halves.reshape(2 * count, -1), np.eye(dilation))[:length]


def _product(matrix: np.ndarray, x: jax.Array, axis: int) -> jax.Array:
    """matrix · x along an axis of x, which is read only where the matrix is not zero."""
    present = matrix != 0
    places = np.argsort(~present, axis=1, kind="stable")[:, : present.sum(1).max()]
    factors = np.take_along_axis(matrix, places, 1)
    # A row of fewer elements reads its first one again, so that what is not finite spreads no further.
    places = np.where(factors, places, places[:, :1])
    shape = [1] * x.ndim
    shape[axis] = -1
    terms = [
        jnp.take(x, place, axis, mode="clip") * factor.astype(x.dtype).reshape(shape)
        for place, factor in zip(places.T, factors.T, strict=True)
    ]
    return sum(terms[1:], terms[0])
