"""1×1 convolutions, as matrix products whose gradients are written for the device."""

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(B, H, W, C), (C, O) → (B, H, W, O). Raises what `jnp.matmul` raises."""
    return jnp.matmul(x, kernel)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return product(x, kernel), (x, kernel)


def _backward(kept: Any, dy: jax.Array) -> Any:
    return jax.lax.platform_dependent(*kept, dy, cpu=_gradients_on_cpu, default=_gradients)


product.defvjp(_forward, _backward)


def _gradients(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
    of_input = jax.linear_transpose(lambda x: jnp.matmul(x, kernel), x)
    of_kernel = jax.linear_transpose(lambda kernel: jnp.matmul(x, kernel), kernel)
    return *of_input(dy), *of_kernel(dy)


def _gradients_on_cpu(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
    """Twice as fast there: XLA would compute `x` or `dy` once more while it transposes it."""
    x, dy = jax.lax.optimization_barrier((x, dy))
    return dy @ kernel.T, jnp.einsum("bhwc,bhwo->co", x, dy)


@jax.custom_vjp
def materialized(x: jax.Array) -> jax.Array:
    """`x`, and on a CPU in memory: whatever reads it does not compute it anew. So does its gradient."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=_as_it_is)


def _as_it_is(x: jax.Array) -> jax.Array:
    return x


def _materialized_forward(x: jax.Array) -> tuple[jax.Array, None]:
    return materialized(x), None


def _materialized_backward(_: None, dy: jax.Array) -> tuple[jax.Array]:
    return (materialized(dy),)


materialized.defvjp(_materialized_forward, _materialized_backward)
