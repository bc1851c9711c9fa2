"""1×1 convolutions and what is kept in memory: as plain JAX computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax import compiler
from dpanet_jax.models.products import materialized, product


def test_the_gradients_of_a_product_are_the_equations():
    rng = np.random.default_rng(0)
    x, kernel, dy = (rng.standard_normal(shape) for shape in ((2, 3, 4, 5), (5, 6), (2, 3, 4, 6)))
    with jax.enable_x64():
        y, gradients = jax.vjp(product, jnp.asarray(x), jnp.asarray(kernel))
        dx, dkernel = jax.jit(gradients)(jnp.asarray(dy))
    np.testing.assert_allclose(y, np.einsum("bhwc,co->bhwo", x, kernel), rtol=1e-13)
    np.testing.assert_allclose(dx, np.einsum("bhwo,co->bhwc", dy, kernel), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(dkernel, np.einsum("bhwc,bhwo->co", x, dy), rtol=1e-13, atol=1e-13)


def test_bfloat16_stays_bfloat16():
    x, kernel = jnp.ones((1, 2, 2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16)
    gradients = jax.grad(lambda x, kernel: product(x, kernel).sum(), (0, 1))(x, kernel)
    assert {part.dtype for part in (product(x, kernel), *gradients)} == {jnp.dtype("bfloat16")}


def test_what_is_materialized_is_the_same_and_so_is_its_gradient():
    x = jax.random.normal(jax.random.key(0), (3, 4))
    plain = jax.value_and_grad(lambda x: jnp.sum(jnp.sin(x) ** 2))(x)
    found = jax.value_and_grad(lambda x: jnp.sum(materialized(jnp.sin(x)) ** 2))(x)
    jax.tree.map(np.testing.assert_array_equal, found, plain)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it is for a CPU")
def test_on_a_cpu_nothing_is_computed_twice():
    """A chain of blocks, each read twice: a block's absolute value is computed once, or else again."""

    def absolute_values(keep):
        def chain(x, kernel):
            for _ in range(4):
                x = keep(jnp.abs(x @ kernel + x))
            return x @ kernel, x + 1

        x = jnp.ones((64, 64))
        compiled = jax.jit(chain, compiler_options=compiler.options("cpu")).lower(x, x).compile()
        return compiled.as_text().count(" abs(")

    assert absolute_values(materialized) == 4
    assert absolute_values(lambda x: x) > 4
