"""What precision the products state, read off the traced program: on a CPU the numbers are the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.models.attention import ChannelPoolAttention, NonLocal, SpatialPoolAttention, product
from dpanet_jax.models.pooling import adaptive_pool, averaging_matrix
from dpanet_jax.models.resize import interpolation_matrix, resize_bilinear

HIGHEST = jax.lax.Precision.HIGHEST
FEATURES = np.random.default_rng(0).normal(size=(2, 7, 5, 16))
LEVELS = 10  # of SPA's two pyramids


def module(made: Any) -> Any:
    """The module as a function of its features, with parameters of zeros."""

    def apply(x: jax.Array) -> jax.Array:
        shapes = jax.eval_shape(made.init, jax.random.key(0), x)
        return made.apply(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), x)

    return apply


def in_type(dtype: Any) -> dict[str, tuple[Any, int, int]]:
    """{what: (a function of features, its products whose precision matters, all of its products)}.

    SPA pools with one product over the rows of a map, and one over the columns for each level.
    """
    return {
        "SPA": (module(SpatialPoolAttention(dtype=dtype)), 1 + LEVELS + 1, 1 + LEVELS + 2),
        "SPA, conv": (module(SpatialPoolAttention(qkv="conv", dtype=dtype)), 2 + LEVELS + 1, 2 + LEVELS + 5),
        "SPA, max": (module(SpatialPoolAttention(pool="max", dtype=dtype)), 1, 2),
        "CPA": (module(ChannelPoolAttention(dtype=dtype)), 1, 2),
        "NonLocal": (module(NonLocal(4, dtype=dtype)), 1, 5),
        "pooling": (lambda x: adaptive_pool(x, 4), 2, 2),
        "resizing": (lambda x: resize_bilinear(x, (9, 12)), 2, 2),
        "resizing to the corners": (lambda x: resize_bilinear(x, (3, 9), align_corners=True), 2, 2),
    }


NAMES = tuple(in_type(jnp.float32))


def products(found: list[Any]) -> tuple[list[Any], list[Any]]:
    """Of a program's equations the products at full precision, and all products."""
    every = [equation for equation in found if equation.primitive.name == "dot_general"]
    return [e for e in every if e.params["precision"] == (HIGHEST, HIGHEST)], every


@pytest.mark.parametrize("name", NAMES)
def test_the_products_that_matter_are_at_full_precision(equations, name):
    """An accelerator rounds float32 operands (to TF32, or bfloat16) in any other product."""
    function, exact, every = in_type(jnp.float32)[name]
    found = products(equations(function, jnp.asarray(FEATURES, jnp.float32)))
    assert (len(found[0]), len(found[1])) == (exact, every)


@pytest.mark.parametrize("name", NAMES)
def test_so_are_their_gradients(equations, name):
    """A product of two factors has two, and one with a fixed matrix has one."""
    function, exact, _ = in_type(jnp.float32)[name]
    gradient = jax.grad(lambda x: (function(x) ** 2).sum())
    found, _ = products(equations(gradient, jnp.asarray(FEATURES, jnp.float32)))
    assert len(found) == 2 * exact + (0 if "ing" in name else 1)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_summed_in_float32_and_not_copied_to_it(equations, name):
    function, exact, _ = in_type(jnp.bfloat16)[name]
    found = equations(function, jnp.asarray(FEATURES, jnp.bfloat16))
    at_full, _ = products(found)
    assert len(at_full) == exact
    for equation in at_full:
        assert equation.params["preferred_element_type"] == jnp.float32
        assert equation.outvars[0].aval.dtype == jnp.float32
    read = [variable.aval.dtype for equation in at_full for variable in equation.invars]
    # Of the logits both operands; of a pooled or resized image the first product's, whose result is float32.
    others = {"SPA": 3, "SPA, conv": 4, "pooling": 1, "resizing": 1, "resizing to the corners": 1}
    assert read.count(jnp.bfloat16) == others.get(name, 2)
    widened = [
        equation
        for equation in found
        if equation.primitive.name == "convert_element_type"
        and equation.invars[0].aval.dtype == jnp.bfloat16
        and equation.outvars[0].aval.dtype == jnp.float32
    ]
    assert not widened


def in_bfloat16(x: np.ndarray) -> np.ndarray:
    """As bfloat16 holds it."""
    return np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16), np.float64)


def assert_rounded_once(found: jax.Array, exact: np.ndarray, scale: float) -> None:
    """`found` is bfloat16's nearest to a number that float32's sum may give for `exact`."""
    assert found.dtype == jnp.bfloat16
    error = 1e-6 * scale
    values = np.asarray(found, np.float64)
    assert (in_bfloat16(exact - error) <= values).all() and (values <= in_bfloat16(exact + error)).all()


# Sums whose terms are far larger than what is left of them: a sum in bfloat16 would be far off.
OFFSET = in_bfloat16(FEATURES + 100 * np.sign(FEATURES))


@pytest.mark.parametrize("size", [1, 4, 9])
def test_pooled_bfloat16_is_rounded_once(size):
    rows, columns = averaging_matrix(7, size), averaging_matrix(5, size)
    exact = np.einsum("nh,mw,bhwc->bnmc", rows, columns, OFFSET)
    assert_rounded_once(adaptive_pool(jnp.asarray(OFFSET, jnp.bfloat16), size), exact, np.abs(OFFSET).max())


@pytest.mark.parametrize("size", [(14, 10), (3, 11), (7, 9)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_resized_bfloat16_is_rounded_once(size, align_corners):
    rows, columns = (
        interpolation_matrix(old, new, align_corners) for old, new in zip((7, 5), size, strict=True)
    )
    exact = np.einsum("Hh,Ww,bhwc->bHWc", rows, columns, OFFSET)
    found = resize_bilinear(jnp.asarray(OFFSET, jnp.bfloat16), size, align_corners)
    assert_rounded_once(found, exact, np.abs(OFFSET).max())


@pytest.mark.parametrize("equation", ["bnc,btc->bnt", "bni,bnj->bij", "bnc,bmc->bnm"])
def test_logits_of_bfloat16_are_not_rounded(equation):
    """SPA's, CPA's and the non-local block's."""
    flat = OFFSET.reshape(2, 35, 16)
    exact = np.einsum(equation, flat, flat)
    found = product(equation, *(jnp.asarray(flat, jnp.bfloat16),) * 2)
    assert found.dtype == jnp.float32
    magnitude = np.einsum(equation, np.abs(flat), np.abs(flat))
    assert (np.abs(np.asarray(found, np.float64) - exact) <= 1e-6 * magnitude).all()
    assert (np.abs(in_bfloat16(exact) - exact) > 1e-4 * magnitude).any()
