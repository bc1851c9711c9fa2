"""SPA beside the non-local block that it replaces, forward and with gradients: modules and their cores."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import torch_settings
from benchmarks.ways import Measurable
from dpanet_jax.analysis.cost import count_products
from dpanet_jax.models.attention import NonLocal, SpatialPoolAttention, attend
from dpanet_jax.models.pooling import EVEN

CHANNELS = 512
MODULES = {"SPA": SpatialPoolAttention, "non-local": NonLocal}


def gradient_bytes(size: int) -> int:
    """What the non-local block's gradient on a map of `size`² takes: four N × N arrays on either side."""
    return 2 * 4 * 4 * size**4


def ours(name: str, size: int, backward: bool) -> Measurable:
    """The module on one feature map of `size` × `size` × 512, float32."""
    module: Any = MODULES[name]()
    x = jax.random.normal(jax.random.key(0), (1, size, size, CHANNELS))
    variables = module.init(jax.random.key(1), x)

    def loss(variables: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(module.apply(variables, x) ** 2)

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1)) if backward else module.apply)
    return Measurable(lambda: jax.block_until_ready(compiled(variables, x)))


def core(name: str, size: int, backward: bool) -> Measurable:
    """softmax(Q·Kᵀ)·V alone, on a map of `size` × `size`: SPA's and the non-local block's.

    SPA has 512 channels and its pooled positions as keys, the block 256 channels and all positions.
    """
    positions = size**2
    keys, channels = positions, NonLocal.channels
    if name == "SPA":
        keys, channels = sum(n * n for n in EVEN), CHANNELS
    q, k, v = (
        jax.random.normal(jax.random.key(i), (1, length, channels)) / channels**0.25
        for i, length in enumerate((positions, keys, keys))
    )

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(attend(q, k, v) ** 2)

    function = jax.grad(loss, argnums=(0, 1, 2)) if backward else attend
    compiled, flops = jax.jit(function), count_products(jax.make_jaxpr(function)(q, k, v).jaxpr)
    return Measurable(lambda: jax.block_until_ready(compiled(q, k, v)), flops)


def theirs(name: str, size: int, backward: bool, device: str) -> Measurable:
    """The twin's module on the same."""
    import torch

    from dpanet_jax.interop.twin import heads

    torch_settings.set_up(device)
    torch.manual_seed(0)
    made = heads.SpatialPoolAttention(CHANNELS) if name == "SPA" else heads.NonLocal(CHANNELS)
    module: Any = made.to(device)
    x = torch.randn(1, CHANNELS, size, size, device=device, requires_grad=backward)

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def forward() -> None:
        with torch.no_grad():
            module(x)
        wait()

    def with_gradients() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        module(x).square().sum().backward()
        wait()

    return Measurable(with_gradients if backward else forward)
