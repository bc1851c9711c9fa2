"""What the networks are made of: convolution, pooling, batch norm and dropout as PyTorch computes them.

Every padding is PyTorch's symmetric one. Axes: B batch, H and W of a feature map, C channels.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpanet_jax.models import convolution, interleaved, winograd
from dpanet_jax.models.products import product
from dpanet_jax.options import Option, OptionError, check_fields, choose, declared

Initializer = Callable[..., jax.Array]

# torchvision's initialisation of a backbone: normal, variance 2 / fan_out.
kaiming_normal: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# torch.nn.Conv2d's default, uniform in ±1/√fan_in, which the reference heads keep. The backbone's
# would start a classifier of a few classes at logits of ±10 and more.
torch_default: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# A compiled function within a program is traced once for all layers of a shape: a start is seconds shorter.
_product = jax.jit(product)
_convolve = jax.jit(convolution.convolve, static_argnames=("stride", "dilation"))
_convolve_by_tiles = jax.jit(winograd.convolve, static_argnames="dilation")

# Above so many groups a convolution is left whole; see `Conv`.
_SPLIT_GROUPS = 4


@dataclasses.dataclass(frozen=True)
class Numerics:
    """How all layers of a network compute; one of it is handed to every backbone, head and network.

    axis_name is the mapped axis (of pmap) that batch norm and dropout span; None outside of one.
    """

    dtype: Annotated[
        Literal["float32", "bfloat16", "float64"],
        Option("type of the computation; with bfloat16, parameters, statistics and softmax stay float32"),
    ] = "float32"
    bn_variance: Annotated[
        Literal["unbiased", "biased"],
        Option("running variance that batch norm keeps: unbiased, as PyTorch, or biased, as Flax"),
    ] = "unbiased"
    dilated_as_batch: Annotated[
        bool,
        Option(
            "compute a dilated convolution as one without dilation of its interleaved images: the same but "
            "for rounding, for a GPU whose compiler is slow at dilated ones",
            kind="operation",
        ),
    ] = False
    param_dtype: str = "float32"
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        choose("param_dtype", self.param_dtype, declared(Numerics)["dtype"].choices)
        if not (self.axis_name is None or isinstance(self.axis_name, str)):
            raise OptionError(f"axis_name={self.axis_name!r}: must be the name of a mapped axis, or None")

    def layers(
        self, train: bool, kernel_init: Initializer = kaiming_normal
    ) -> tuple[Callable[..., "Conv"], Callable[..., "BatchNorm"]]:
        """`conv` and `norm`, the two constructors that every part of a network builds with."""
        how = {"dilated_as_batch": self.dilated_as_batch, **self.types()}
        conv = partial(Conv, kernel_init=kernel_init, **how)
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name,
            variance=self.bn_variance,
            **self.types(),
        )
        return conv, norm

    def types(self) -> dict[str, Any]:
        """`dtype` and `param_dtype`, as Flax's layers take them."""
        return {"dtype": jnp.dtype(self.dtype), "param_dtype": jnp.dtype(self.param_dtype)}


class Conv(nn.Module):
    """A convolution, padded by dilation · (kernel size // 2). (B, H, W, C) → (B, H', W', features).

    H' is ⌈H/stride⌉ where the kernel's height is odd, W' likewise. `kernel_size` is (height, width), or one
    number for both. A 1×1 kernel of one group is stored as (C, features) and is a matrix product: its weight
    gradient takes less than half the time on a CPU. Any other is (height, width, C/groups, features). A few
    groups are a convolution each: XLA's grouped one takes 5 times as long on a CPU, its gradient in float64
    20 times. Many groups (depthwise: `groups=C`) are one grouped convolution: a hundred small ones take
    seconds to compile. `dilated_as_batch` concerns stride 1 and kernels of odd sides.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    dilated_as_batch: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Initializer = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        given = self.kernel_size
        size = (given, given) if isinstance(given, int) else tuple(given)
        is_product = size == (1, 1) and self.groups == 1
        per_position = (x.shape[-1] // self.groups, self.features)
        shape = per_position if is_product else (*size, *per_position)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = (
            self.param("bias", nn.initializers.zeros, shape[-1:], self.param_dtype) if self.use_bias else None
        )
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if is_product:
            y = _product(x[:, :: self.stride, :: self.stride], kernel)
        elif self._as_batch(size):
            parts = interleaved.to_batch(x, self.dilation)
            y = interleaved.from_batch(self._convolve(parts, kernel, size, 1), self.dilation, *x.shape[1:3])
        else:
            y = self._convolve(x, kernel, size, self.dilation)
        return y if bias is None else y + bias

    def _as_batch(self, size: tuple[int, ...]) -> bool:
        dilated = self.stride == 1 and self.dilation > 1
        return self.dilated_as_batch and dilated and all(n % 2 for n in size)

    def _convolve(self, x: jax.Array, kernel: jax.Array, size: tuple[int, ...], dilation: int) -> jax.Array:
        if self.groups > _SPLIT_GROUPS:
            return jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=[(dilation * (n // 2),) * 2 for n in size],
                rhs_dilation=(dilation, dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        inputs, kernels = (jnp.split(part, self.groups, axis=-1) for part in (x, kernel))
        if self.stride == 1 and winograd.pays(inputs[0], kernels[0], dilation):
            whole: Any = self.get_variable(winograd.COLLECTION, "kernel")
            transformed = [None] * self.groups if whole is None else jnp.split(whole, self.groups, axis=-1)
            convolve = partial(_convolve_by_tiles, dilation=dilation)
            parts = map(convolve, inputs, kernels, transformed)
        else:
            parts = map(partial(_convolve, stride=self.stride, dilation=dilation), inputs, kernels)
        return jnp.concatenate(list(parts), axis=-1)


def max_pool(x: jax.Array) -> jax.Array:
    """3×3, stride 2, padding 1. (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, C).

    One axis after the other, by comparisons: on a CPU the gradient takes a quarter of the time of
    nn.max_pool's. Of equal values the first in row-major order gets the gradient, as in PyTorch.
    """
    for axis in (2, 1):
        size = -(-x.shape[axis] // 2)
        pads = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        first, second, third = (
            jax.lax.slice_in_dim(padded, start, start + 2 * size - 1, 2, axis) for start in range(3)
        )
        x = jnp.where(first >= second, first, second)
        x = jnp.where(x >= third, x, third)
    return x


def average_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    """torch.nn.AvgPool2d(size, stride, padding=size // 2): padding counts as zeros in the average."""
    pad = size // 2
    return nn.avg_pool(x, (size, size), (stride, stride), [(pad, pad), (pad, pad)], count_include_pad=True)


def average_down(x: jax.Array, stride: int) -> jax.Array:
    """torch.nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False).

    (B, H, W, C) → (B, ⌈H/stride⌉, ⌈W/stride⌉, C): at the lower and right border, where a window leaves the
    image, the average is over what is inside.
    """
    if stride == 1:
        return x
    pads = [(0, -length % stride) for length in x.shape[1:3]]
    return nn.avg_pool(x, (stride, stride), (stride, stride), pads, count_include_pad=False)


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm, whose running variance may be of the unbiased estimate, as PyTorch keeps it.

    The batch itself is normalised by the biased variance either way. "unbiased" moves the running one
    towards n/(n − 1) times it, n being the positions that a channel has in the global batch; a single
    position has no unbiased variance (PyTorch refuses it), and then the biased one, 0, is kept.
    """

    variance: str = "unbiased"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        begins = self.is_initializing()
        if begins:
            for name, start in (("mean", jnp.zeros), ("var", jnp.ones)):
                self.variable("batch_stats", name, start, x.shape[-1:], jnp.float32)
            for name, initializer in (("scale", self.scale_init), ("bias", self.bias_init)):
                self.param(name, initializer, x.shape[-1:], self.param_dtype)
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(nn.BatchNorm)}
        # At init no axis is bound.
        given |= {"parent": None, "name": None, "axis_name": None if begins else self.axis_name}
        y, statistics = _normalized(nn.BatchNorm(**given), self.variance == "unbiased", self.variables, x)
        if not (begins or self.use_running_average):
            for name, value in statistics.items():
                self.put_variable("batch_stats", name, value)
        return y


@partial(jax.jit, static_argnums=(0, 1))
def _normalized(
    norm: nn.BatchNorm, unbiased: bool, variables: Any, x: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What Flax's batch norm makes of x, and the running statistics after it."""
    y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    statistics = dict(updates["batch_stats"])
    if unbiased and not norm.use_running_average:
        devices = 1 if norm.axis_name is None else jax.lax.axis_size(norm.axis_name)
        count = devices * math.prod(x.shape[:-1])
        kept = norm.momentum * variables["batch_stats"]["var"]
        statistics["var"] = kept + (statistics["var"] - kept) * (count / max(count - 1, 1))
    return y, statistics


class ChannelDropout(nn.Module):
    """torch.nn.Dropout2d: in training, whole channels of an example are set to 0. (B, H, W, C) → the same.

    The mask is drawn for the global batch, and under a mapped axis each device takes its rows of it, so
    that the numbers do not depend on how a batch is spread over devices.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        batch, channels = x.shape[0], x.shape[-1]
        rng = self.make_rng("dropout")
        # At init no axis is bound; the mask's rows do not matter there.
        devices = 1 if self.axis_name is None or self.is_initializing() else jax.lax.axis_size(self.axis_name)
        keep = jax.random.bernoulli(rng, 1 - self.rate, (devices * batch, 1, 1, channels))
        if devices > 1:
            start = jax.lax.axis_index(self.axis_name) * batch
            keep = jax.lax.dynamic_slice_in_dim(keep, start, batch)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)
