"""The paper's two modules, equation by equation, and the non-local block that they replace.

Axes: B batch, H and W of a feature map, N = H·W positions, T pooled positions, C channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpanet_jax.models.pooling import EVEN, ODD, check_mode, pyramid_pool

# Pyramid sizes of the keys and of the values (section 3.2 and table 4).
POOL_SIZES = {"mixed": (EVEN, ODD), "even": (EVEN, EVEN), "odd": (ODD, ODD)}


def choose(name: str, value, choices) -> None:
    """Raises ValueError where an option's value is not one of its choices, or is so by another type."""
    if type(value) is not type(choices[0]) or value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(str, choices))}")


def softmax(logits: jax.Array) -> jax.Array:
    """Over the last axis, in at least float32 whatever the compute type."""
    return nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)


class SpatialPoolAttention(nn.Module):
    """SPA (eq. 8 and 9): every position attends to T = 325 pooled ones. (B, H, W, C) → the same.

    sizes: "mixed" (keys from the even pyramid, values from the odd one), "even" or "odd". qkv: "identity"
    (λ is then the only parameter) or "conv", 1×1 convolutions before pooling. pool: "avg" or "max".
    """

    sizes: str = "mixed"
    qkv: str = "identity"
    pool: str = "avg"
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        choose("sizes", self.sizes, tuple(POOL_SIZES))
        choose("qkv", self.qkv, ("identity", "conv"))
        check_mode(self.pool, "pool")
        key_sizes, value_sizes = POOL_SIZES[self.sizes]
        batch, height, width, channels = x.shape
        q = k = v = x
        if self.qkv == "conv":
            q, k, v = (
                nn.Dense(channels, dtype=self.dtype, param_dtype=self.param_dtype, name=name)(x)
                for name in ("query", "key", "value")
            )
        q = q.reshape(batch, height * width, channels)  # (B, N, C)
        k = pyramid_pool(k, key_sizes, self.pool)  # (B, T, C)
        v = pyramid_pool(v, value_sizes, self.pool)  # (B, T, C)
        # Eq. 8; its sum "to N" runs over the pooled positions: M is T × N. No scaling, as in DANet.
        wide = jnp.promote_types(x.dtype, jnp.float32)
        m = softmax(jnp.einsum("bnc,btc->bnt", q, k, preferred_element_type=wide))
        attended = jnp.einsum("bnt,btc->bnc", m.astype(v.dtype), v).reshape(x.shape)
        # Eq. 9.
        scale = self.param("lambda", nn.initializers.zeros, (), self.param_dtype)
        return scale.astype(x.dtype) * attended + x


class ChannelPoolAttention(nn.Module):
    """CPA (eq. 10 to 14): every channel attends to those it differs from. (B, H, W, C) → the same.

    affinity: "subtract" or "square" (eq. 12). μ is the only parameter.
    """

    affinity: str = "subtract"
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        choose("affinity", self.affinity, ("subtract", "square"))
        batch, height, width, channels = x.shape
        wide = jnp.promote_types(x.dtype, jnp.float32)
        q = x.reshape(batch, height * width, channels)  # (B, N, C)
        # Eq. 10. D grows with N and the activations' scale: never in less than full float32.
        d = jnp.einsum("bni,bnj->bij", q.astype(wide), q.astype(wide), precision="highest")
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
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape

        def conv(features, name, **options):
            return nn.Dense(features, dtype=self.dtype, param_dtype=self.param_dtype, name=name, **options)

        alpha = conv(self.channels, "query_key")(x).reshape(batch, height * width, self.channels)
        gamma = conv(self.channels, "value")(x).reshape(batch, height * width, self.channels)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        m = softmax(jnp.einsum("bnc,bmc->bnm", alpha, alpha, preferred_element_type=wide))  # eq. 2
        o = jnp.einsum("bnm,bmc->bnc", m.astype(gamma.dtype), gamma)  # eq. 3
        o = conv(channels, "output", kernel_init=nn.initializers.zeros)(o)
        return o.reshape(x.shape) + x
