"""Dilated convolutions computed without dilation: the same output and gradients, and no dilation left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.models import build, init_variables
from dpanet_jax.models.interleaved import from_batch, to_batch
from dpanet_jax.models.layers import Conv
from dpanet_jax.training.traced import equations


def test_an_image_is_taken_apart_and_put_together():
    x = np.arange(2 * 5 * 7 * 2).reshape(2, 5, 7, 2)
    parts = to_batch(jnp.asarray(x), 3)
    assert parts.shape == (2 * 9, 2, 3, 2)
    # Of the second image: the pixels of rows 1, 4 and columns 2, 5, beyond which there are zeros.
    part = np.zeros((2, 3, 2))
    part[:, :2] = x[1, 1::3, 2::3]
    np.testing.assert_array_equal(parts[9 + 1 * 3 + 2], part)
    np.testing.assert_array_equal(from_batch(parts, 3, 5, 7), x)


def dilations(function, *arguments):
    """Of every convolution of the program, the largest one of input or kernel."""
    return [
        max(*equation.params["lhs_dilation"], *equation.params["rhs_dilation"])
        for equation, _ in equations(jax.make_jaxpr(function)(*arguments).jaxpr)
        if equation.primitive.name == "conv_general_dilated"
    ]


@pytest.mark.parametrize(
    ("size", "kernel_size", "dilation", "groups"),
    [((8, 8), 3, 2, 1), ((7, 5), 3, 2, 2), ((9, 3), 3, 4, 1), ((6, 11), (1, 5), 3, 1), ((5, 6), 3, 2, 8)],
)
def test_output_and_gradients_are_those_of_the_dilated_one(size, kernel_size, dilation, groups):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, dy = (jnp.asarray(rng.standard_normal((2, *size, 8))) for _ in range(2))
        types = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        plain, other = (
            Conv(8, kernel_size, dilation=dilation, groups=groups, dilated_as_batch=value, **types)
            for value in (False, True)
        )
        variables = plain.init(jax.random.key(0), x)

        def both(conv):
            def run(variables, x):
                y, gradients = jax.vjp(conv.apply, variables, x)
                return y, gradients(dy)

            return run

        expected, found = (jax.jit(both(conv))(variables, x) for conv in (plain, other))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=0, atol=1e-12), expected, found)
        assert max(dilations(both(plain), variables, x)) == dilation
        assert max(dilations(both(other), variables, x)) == 1


@pytest.mark.parametrize("options", [{"stride": 2}, {"kernel_size": 2}, {"dilation": 1}])
def test_what_it_does_not_concern_is_as_it_was(options):
    x = jnp.ones((1, 6, 6, 2))
    plain, other = (Conv(2, **{"dilation": 2, **options}, dilated_as_batch=value) for value in (False, True))
    variables = plain.init(jax.random.key(0), x)
    programs = [str(jax.make_jaxpr(conv.apply)(variables, x)) for conv in (plain, other)]
    assert programs[0] == programs[1]


@pytest.mark.parametrize("backbone", ["resnet18", "resnest50"])
def test_the_option_reaches_every_dilated_convolution_of_a_network(backbone):
    """And the variables keep their names and shapes."""
    shapes, found = [], []
    x = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
    for value in (False, True):
        model = build(3, name="fcn", backbone=backbone, width=4, auxiliary=False, dilated_as_batch=value)
        variables = jax.eval_shape(lambda model=model: init_variables(model, jax.random.key(0)))
        shapes.append(jax.tree.map(lambda leaf: leaf.shape, variables))
        found.append(dilations(lambda v, x, model=model: model.apply(v, x, train=False), variables, x))
    assert shapes[0] == shapes[1]
    assert max(found[0]) == 4 and max(found[1]) == 1
