"""A dilated convolution without dilation: its d·d interleaved images stand in the batch axis.

The pixels that a kernel of dilation d reads lie d apart, so one of d·d interleaved images holds them all, as
neighbours. Axes: B batch, H and W of a feature map, C channels; h = ⌈H/d⌉ and w = ⌈W/d⌉.
"""

import jax
import jax.numpy as jnp


def to_batch(x: jax.Array, dilation: int) -> jax.Array:
    """(B, H, W, C) → (B·d·d, h, w, C). Where d does not divide H or W, zeros fill the last row or column.

    These are zeros that a convolution's own padding would add, so it gives the same with them. An image's
    parts stand together, as a batch that is split over devices needs them.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    x = jnp.pad(x, ((0, 0), (0, rows * dilation - height), (0, columns * dilation - width), (0, 0)))
    x = x.reshape(batch, rows, dilation, columns, dilation, channels).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(batch * dilation**2, rows, columns, channels)


def from_batch(x: jax.Array, dilation: int, height: int, width: int) -> jax.Array:
    """The inverse: (B·d·d, h, w, C) → (B, H, W, C). What was computed beyond H and W is left out."""
    parts, rows, columns, channels = x.shape
    batch = parts // dilation**2
    x = x.reshape(batch, dilation, dilation, rows, columns, channels).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, rows * dilation, columns * dilation, channels)[:, :height, :width]
