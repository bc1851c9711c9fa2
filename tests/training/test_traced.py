"""Equations of a traced program, counted by hand."""

import collections

import jax
import jax.numpy as jnp

from dpanet_jax.training.traced import equations


def test_loops_count_their_turns_and_calls_are_looked_into() -> None:
    def turn(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jnp.sin(jax.jit(jnp.cos)(x)), None

    def program(x: jax.Array) -> jax.Array:
        def outer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.exp(jax.lax.scan(turn, x, None, length=5)[0]), None

        return jax.lax.scan(outer, jnp.exp(x), None, length=3)[0]

    counts: collections.Counter[str] = collections.Counter()
    for equation, turns in equations(jax.make_jaxpr(program)(1.0).jaxpr):
        counts[equation.primitive.name] += turns
    assert (counts["exp"], counts["sin"], counts["cos"], counts["scan"]) == (1 + 3, 15, 15, 1 + 3)
