"""SPA's core beside the non-local block that it replaces: the two modules alone, forward and backward."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import torch_settings
from benchmarks.ways import Measurable
from dpanet_jax.models.attention import NonLocal, SpatialPoolAttention

CHANNELS = 512
MODULES = {"SPA": SpatialPoolAttention, "non-local": NonLocal}


def ours(name: str, size: int, backward: bool) -> Measurable:
    """The module on one feature map of `size` × `size` × 512, float32."""
    module: Any = MODULES[name]()
    x = jax.random.normal(jax.random.key(0), (1, size, size, CHANNELS))
    variables = module.init(jax.random.key(1), x)

    def loss(variables: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(module.apply(variables, x) ** 2)

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1)) if backward else module.apply)
    return Measurable(lambda: jax.block_until_ready(compiled(variables, x)))


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
