"""The paper's two modules, equation by equation, and the non-local block that they replace.

Axes: B batch, H and W of a feature map, N = H·W positions, T pooled positions, C channels.
"""

from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpanet_jax.models.pooling import EVEN, ODD, pyramid_pool
from dpanet_jax.options import Option, check_fields

# Pyramid sizes of the keys and of the values (section 3.2 and table 4).
POOL_SIZES = {"mixed": (EVEN, ODD), "even": (EVEN, EVEN), "odd": (ODD, ODD)}


def softmax(logits: jax.Array) -> jax.Array:
    """Over the last axis, in at least float32 whatever the compute type."""
    return nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)


def product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum whose result is logits: summed in at least float32, at full precision on every device.

    A softmax turns an error of its logits into a factor, and these logits are scaled by nothing.
    """
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(equation, a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide)


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(Q·Kᵀ)·V (eq. 2 and 3; 8 and 9): (B, N, C), (B, T, C), (B, T, D) → (B, N, D), in v's type.

    No scaling, as in DANet.
    """
    m = softmax(product("bnc,btc->bnt", q, k))
    return jnp.einsum("bnt,btc->bnc", m.astype(v.dtype), v)


class SpatialPoolAttention(nn.Module):
    """SPA (eq. 8 and 9): every position attends to T = 325 pooled ones. (B, H, W, C) → the same.

    With qkv "identity", λ is the only parameter. Raises OptionError for a value out of its choices.
    """

    sizes: Annotated[
        Literal["mixed", "even", "odd"],
        Option(
            "pyramid of SPA: keys from the even sizes and values from the odd ones, or both from one",
            key="pool_sizes",
        ),
    ] = "mixed"
    qkv: Annotated[
        Literal["identity", "conv"],
        Option("queries, keys and values of SPA: the input, or 1×1 convolutions of it"),
    ] = "identity"
    pool: Annotated[Literal["avg", "max"], Option("pooling of SPA")] = "avg"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        key_sizes, value_sizes = POOL_SIZES[self.sizes]
        batch, height, width, channels = x.shape
        if self.qkv == "conv":
            q, k, v = (
                nn.Dense(channels, dtype=self.dtype, param_dtype=self.param_dtype, name=name)(x)
                for name in ("query", "key", "value")
            )
            k = pyramid_pool(k, key_sizes, self.pool)  # (B, T, C)
            v = pyramid_pool(v, value_sizes, self.pool)  # (B, T, C)
        else:
            q = x
            k, v = jnp.split(pyramid_pool(x, key_sizes + value_sizes, self.pool), 2, axis=1)
        q = q.reshape(batch, height * width, channels)  # (B, N, C)
        # Eq. 8; its sum "to N" runs over the pooled positions: M is T × N.
        attended = attend(q, k, v).reshape(x.shape)
        # Eq. 9.
        scale = self.param("lambda", nn.initializers.zeros, (), self.param_dtype)
        return scale.astype(x.dtype) * attended + x


class ChannelPoolAttention(nn.Module):
    """CPA (eq. 10 to 14): every channel attends to those it differs from. (B, H, W, C) → the same.

    μ is the only parameter. Raises OptionError for a value out of its choices.
    """

    affinity: Annotated[
        Literal["subtract", "square"],
        Option("how CPA compares channels (eq. 12): the difference, or its square"),
    ] = "subtract"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        q = x.reshape(batch, height * width, channels)  # (B, N, C)
        d = product("bni,bnj->bij", q, q)  # eq. 10
        d_hat = d.max(axis=-1, keepdims=True)  # eq. 11
        e = d_hat - d if self.affinity == "subtract" else (d_hat - d) ** 2  # eq. 12
        a = softmax(e)  # eq. 13, with the exp that its denominator lacks
        # Eq. 14, V_j read as V_i: channel i of the output is Σ_j A_ij X_j.
        attended = jnp.einsum("bij,bnj->bni", a.astype(x.dtype), q).reshape(x.shape)
        scale = self.param("mu", nn.initializers.zeros, (), self.param_dtype)
        return scale.astype(x.dtype) * attended + x


class NonLocal(nn.Module):
    """The block that SPA replaces (eq. 1 to 3; table 1's row "NB"). (B, H, W, C) → the same.

    `channels` is Ĉ. α and β come from one shared 1×1 convolution (eq. 1 writes W_α for both) and γ from
    another; a third one, zero at the start, leads back to C and the input is added. These are the
    convolutions that table 1's 58.0 and 601.4 G multiply-adds count, at C = 2048 and Ĉ = 256.
    """

    channels: int = 256
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape

        def conv(features: int, name: str, **options: Any) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, param_dtype=self.param_dtype, name=name, **options)

        alpha = conv(self.channels, "query_key")(x).reshape(batch, height * width, self.channels)
        gamma = conv(self.channels, "value")(x).reshape(batch, height * width, self.channels)
        o = conv(channels, "output", kernel_init=nn.initializers.zeros)(attend(alpha, alpha, gamma))
        return o.reshape(x.shape) + x
