"""The dilated 3×3 convolutions of the backbones beside the same without dilation.

XLA for GPUs has had a slow path for them: it wrote zeros between the kernel's elements, so that a kernel of
dilation 4 had 81 elements for 9. The convolution undilated says what is to be expected, and
`config.model.dilated_as_batch` is the way around it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from benchmarks.report import Row
from benchmarks.timing import Times
from benchmarks.ways import Measurable, Measured, Way
from dpanet_jax.models.layers import Conv

# (channels, dilation) at output stride 8, of every ResNet: the third stage, the fourth one's first block, and
# its other blocks.
SHAPES = ((256, 2), (512, 2), (512, 4))
# So many times the undilated convolution's time is more than reading pixels that lie apart can cost.
SUSPECT = 1.5
WAYS: Mapping[str, dict[str, Any]] = {
    "as batch": {"as_batch": True},
    "dilated": {},
    "undilated": {"dilated": False},
}


def ours(
    shape: tuple[int, int, int],
    channels: int,
    dilation: int,
    dtype: str,
    backward: bool,
    as_batch: bool = False,
    dilated: bool = True,
) -> Measurable:
    """The layer on images of `shape` (B, H, W), on one device; with `backward` its output and both gradients.

    Each way counts the same operations: all 9 products of every pixel, also those with the padding, without
    the rows and columns that `as_batch` adds.
    """
    conv = Conv(channels, dilation=dilation if dilated else 1, dilated_as_batch=as_batch, dtype=dtype)
    x = jax.random.normal(jax.random.key(0), (*shape, channels), dtype)
    variables = conv.init(jax.random.key(1), x)

    def with_gradients(variables: Any, x: jax.Array) -> Any:
        y, gradients = jax.vjp(conv.apply, variables, x)
        return y, gradients(y)

    compiled = jax.jit(with_gradients if backward else conv.apply)
    flops = 2.0 * 9 * channels**2 * shape[0] * shape[1] * shape[2] * (3 if backward else 1)
    return Measurable(lambda: jax.block_until_ready(compiled(variables, x)), flops)


def rows(
    dtype: str,
    batch_size: int,
    size: int,
    limit: float,
    measure: Callable[[Mapping[str, Way]], Measured | None],
    tell: Callable[[str], object],
) -> Iterator[Row]:
    """For each shape at so large an image: as a batch beside dilated, and dilated beside undilated.

    limit: operations a second at best. measure: lets ways take turns. tell: hears where a slow path is
    suspected.
    """
    side = -(-size // 8)
    for channels, dilation in SHAPES:
        for backward in (False, True):
            what: dict[str, Any] = {
                "shape": (batch_size, side, side),
                "channels": channels,
                "dilation": dilation,
                "dtype": dtype,
                "backward": backward,
            }
            ways = {name: Way("dilation", "ours", {**what, **how}) for name, how in WAYS.items()}
            if not (measured := measure(ways)):
                continue
            kind = "with gradients" if backward else "forward"
            work = f"3×3, dilation {dilation}, {dtype} {batch_size}×{side}²×{channels} {kind}"
            for first, second in (("as batch", "dilated"), ("dilated", "undilated")):
                times = {name: measured.times[name] for name in (first, second) if name in measured.times}
                if first in times:
                    yield Row("dilation", f"{work}, {first}", times, flops=measured.flops, limit=limit)
            if said := verdict(measured.times):
                tell(f"  {work}: {said}")


def verdict(times: Mapping[str, Times]) -> str:
    """In words, where the dilated convolution is much slower than the undilated one; else nothing."""
    if not {"dilated", "undilated"} <= times.keys():
        return ""
    ratio = times["dilated"].median / times["undilated"].median
    if ratio < SUSPECT:
        return ""
    words = f"a slow path is suspected: {ratio:.1f} times the undilated convolution's time"
    if "as batch" not in times:
        return words
    gain = times["dilated"].median / times["as batch"].median
    advice = "set config.model.dilated_as_batch=True" if gain > 1 else "no remedy"
    return f"{words}; as a batch {gain:.1f} times as fast as dilated: {advice}"
