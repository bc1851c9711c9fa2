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

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dpanet_jax.models import convolution

_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])  # Bᵀ
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])  # Aᵀ
_KERNEL_2D = np.kron(_KERNEL, _KERNEL).astype(np.float32)  # of a kernel's 9 elements in a row

# The collection of variables that `with_transformed_kernels` adds: at a kernel's path, what it becomes.
COLLECTION = "winograd"

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
        x.dtype == jnp.float32
        and _suits(kernel)
        and kernel.shape[2] == channels
        and batch * height * width >= _LEAST_POSITIONS
        and padded[0] * padded[1] <= _MOST_PADDING * height * width
    )


def _suits(kernel: Any) -> bool:
    of_size = kernel.ndim == 4 and kernel.shape[:2] == (3, 3) and min(kernel.shape[2:]) >= _LEAST_CHANNELS
    return of_size and kernel.dtype == jnp.float32


def with_transformed_kernels(variables: dict[str, Any]) -> dict[str, Any]:
    """A network's variables and, in `COLLECTION`, G g Gᵀ (16, C, O) of each kernel that may be used by tiles.

    For inference on a CPU, where the kernels stay the same: else each call transforms them anew, which takes
    up to a tenth of its time. They need 16/9 of the kernels' memory beside them.
    """
    kernels = traverse_util.flatten_dict(variables.get("params", {}))
    transformed = {path: _transformed_kernel(kernel) for path, kernel in kernels.items() if _suits(kernel)}
    return {**variables, COLLECTION: traverse_util.unflatten_dict(transformed)}


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def convolve(x: jax.Array, kernel: jax.Array, transformed: jax.Array | None, dilation: int) -> jax.Array:
    """The convolution padded by its dilation: (B, H, W, C), (3, 3, C, O) → (B, H, W, O).

    On a CPU by tiles, elsewhere as XLA does it. Rounding differs from the plain sum's by a few ulps of the
    largest value. `transformed` is G g Gᵀ where it is known; the gradient is of `kernel` in either case.
    """
    by_tiles = partial(_by_tiles, transformed=transformed, dilation=dilation)
    plain = partial(convolution.plain, stride=1, dilation=dilation)
    return jax.lax.platform_dependent(x, kernel, cpu=by_tiles, default=plain)


def _forward(
    x: jax.Array, kernel: jax.Array, transformed: jax.Array | None, dilation: int
) -> tuple[jax.Array, Any]:
    return convolve(x, kernel, transformed, dilation), (x, kernel)


def _backward(dilation: int, kept: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    by_tiles = partial(_gradients_by_tiles, dilation=dilation)
    plain = partial(convolution.plain_gradients, stride=1, dilation=dilation)
    return *jax.lax.platform_dependent(*kept, dy, cpu=by_tiles, default=plain), None


convolve.defvjp(_forward, _backward)


def _by_tiles(x: jax.Array, kernel: jax.Array, transformed: jax.Array | None, dilation: int) -> jax.Array:
    # Else XLA computes what is cheap before it, as batch norm, for each of the 16 tiles' elements anew.
    x = jax.lax.optimization_barrier(x)
    bands = _Bands.of(x, dilation)
    of_kernel = _transformed_kernel(kernel) if transformed is None else transformed

    def band(part: jax.Array) -> jax.Array:
        products = jnp.einsum("knc,kco->kno", bands.inputs.tiles(part), of_kernel)
        return bands.outputs.image(products)

    if bands.number == 1:
        return band(x)
    padded = bands.padded(x, dilation)
    y = jax.lax.map(lambda i: band(bands.with_border(padded, i)), jnp.arange(bands.number))
    y = jnp.moveaxis(y, 0, 1)
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, : x.shape[1]]


def _gradients_by_tiles(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, dilation: int
) -> tuple[jax.Array, jax.Array]:
    # Else XLA keeps what the forward pass made of the kernel, which is larger than the kernel.
    kernel, dy = jax.lax.optimization_barrier((kernel, dy))
    bands, of_kernel = _Bands.of(x, dilation), _transformed_kernel(kernel)

    def band(part: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        dm = bands.outputs.transposed().tiles(dy)
        du = jnp.einsum("knc,kno->kco", bands.inputs.tiles(part), dm)
        dv = jnp.einsum("kno,kco->knc", dm, of_kernel)
        return bands.inputs.transposed().image(dv), du

    if bands.number == 1:
        dx, du = band(x, dy)
    else:
        padded_x, padded_dy = bands.padded(x, dilation), bands.padded(dy, 0)

        def add(sums: tuple[jax.Array, jax.Array], i: Any) -> tuple[tuple[jax.Array, jax.Array], None]:
            of_image, of_product = band(bands.with_border(padded_x, i), bands.own(padded_dy, i))
            # A band's border is of its neighbours too.
            rows = bands.with_border(sums[0], i) + of_image
            dx = jax.lax.dynamic_update_slice_in_dim(sums[0], rows, i * bands.rows, 1)
            return (dx, sums[1] + of_product), None

        zeros = jnp.zeros_like(padded_x), jnp.zeros_like(of_kernel)
        (dx, du), _ = jax.lax.scan(add, zeros, jnp.arange(bands.number))
        dx = dx[:, dilation : dilation + x.shape[1]]
    dkernel = jnp.matmul(_KERNEL_2D.T, du.reshape(16, -1))
    # Else XLA computes the gradient anew wherever it is read.
    return jax.lax.optimization_barrier((dx, dkernel.reshape(kernel.shape)))


def _tiles(length: int, dilation: int) -> int:
    return -(-length // (2 * dilation))


@jax.jit
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


class _Bands(NamedTuple):
    """How an image's rows are cut into `number` bands of `rows` rows, and how one becomes tiles and outputs.

    A single band is the image as it is. Else each has δ rows more before and after it: its border.
    """

    inputs: _Transform
    outputs: _Transform
    dilation: int
    number: int
    rows: int

    @classmethod
    def of(cls, x: jax.Array, dilation: int) -> "_Bands":
        batch, height, width, channels = x.shape
        tiles, columns = _tiles(height, dilation), _tiles(width, dilation)
        size = 16 * batch * tiles * columns * dilation**2 * channels * x.dtype.itemsize
        of_band = -(-tiles // -(-size // _BAND_BYTES))
        number, rows = -(-tiles // of_band), of_band * 2 * dilation
        if number == 1:
            of_rows = _input_matrix(of_band, dilation, height), _output_matrix(of_band, dilation, height)
        else:
            inside = _input_matrix(of_band, dilation, rows + 2 * dilation, border=True)
            of_rows = inside, _output_matrix(of_band, dilation, rows)
        of_columns = _input_matrix(columns, dilation, width), _output_matrix(columns, dilation, width)
        inputs, outputs = (_Transform(*pair) for pair in zip(of_rows, of_columns, strict=True))
        return cls(inputs, outputs, dilation, number, rows)

    def padded(self, x: jax.Array, before: int) -> jax.Array:
        """With so many rows of zeros before it, and after it up to the end of the last band's border."""
        after = self.number * self.rows + 2 * self.dilation - before - x.shape[1]
        return jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0)))

    def with_border(self, padded: jax.Array, i: Any) -> jax.Array:
        """Band i and its border, of an image that begins with δ rows of zeros."""
        return jax.lax.dynamic_slice_in_dim(padded, i * self.rows, self.rows + 2 * self.dilation, 1)

    def own(self, padded: jax.Array, i: Any) -> jax.Array:
        """Band i alone, of an image that begins with no zeros."""
        return jax.lax.dynamic_slice_in_dim(padded, i * self.rows, self.rows, 1)


def _input_matrix(count: int, dilation: int, length: int, border: bool = False) -> np.ndarray:
    """(4·count·δ, length): pixels of a line → Bᵀ of its tiles. The δ pixels before and after it are 0.

    With `border` they are given: the line begins with them.
    """
    halves = np.zeros((4, count, 2 * count + 2))
    for tile in range(count):
        halves[:, tile, 2 * tile : 2 * tile + 4] = _INPUT
    matrix = np.kron(halves.reshape(4 * count, -1), np.eye(dilation))
    before = 0 if border else dilation
    return matrix[:, before : before + length]


def _output_matrix(count: int, dilation: int, length: int) -> np.ndarray:
    """(length, 4·count·δ): elements of a line of tiles → Aᵀ of them, its pixels."""
    halves = np.zeros((2 * count, 4, count))
    for tile in range(count):
        halves[2 * tile : 2 * tile + 2, :, tile] = _OUTPUT
    return np.kron(halves.reshape(2 * count, -1), np.eye(dilation))[:length]


def _product(matrix: np.ndarray, x: jax.Array, axis: int) -> jax.Array:
    """matrix · x along an axis of x, which is read only where the matrix is not zero."""
    present = matrix != 0
    places = np.argsort(~present, axis=1, kind="stable")[:, : present.sum(1).max()]
    factors = np.take_along_axis(matrix, places, 1)
    shape = [1] * x.ndim
    shape[axis] = -1

    def term(place: np.ndarray, factor: np.ndarray) -> jax.Array:
        read = jnp.take(x, place, axis, mode="clip") * factor.astype(x.dtype).reshape(shape)
        # A row of fewer elements than others: zero times what is not finite would not be zero.
        return read if factor.all() else jnp.where(factor.reshape(shape) != 0, read, 0)

    terms = [term(*pair) for pair in zip(places.T, factors.T, strict=True)]
    return sum(terms[1:], terms[0])
