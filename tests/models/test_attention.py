"""The paper's modules against its equations, written out in NumPy in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.models.attention import ChannelPoolAttention, NonLocal, SpatialPoolAttention
from dpanet_jax.options import OptionError

SIZES = {"even": (1, 4, 8, 10, 12), "odd": (1, 5, 7, 9, 13)}
BATCH, HEIGHT, WIDTH, CHANNELS = 2, 7, 5, 6


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(BATCH, HEIGHT, WIDTH, CHANNELS))


def pool(x, sizes, mode):
    """(H, W, C) → (T, C): every bin by its definition."""
    height, width, _ = x.shape
    rows = []
    for n in sizes:
        for i, j in np.ndindex(n, n):
            window = x[
                i * height // n : int(np.ceil((i + 1) * height / n)),
                j * width // n : int(np.ceil((j + 1) * width / n)),
            ]
            rows.append(window.mean((0, 1)) if mode == "avg" else window.max((0, 1)))
    return np.array(rows)


def softmax(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum()


def spa(x, sizes, mode, lam, convs=None):
    """Eq. 8 and 9, position by position."""
    key_sizes, value_sizes = {"mixed": ("even", "odd"), "even": ("even",) * 2, "odd": ("odd",) * 2}[sizes]
    out = np.zeros_like(x)
    for b in range(len(x)):
        q = k = v = x[b]
        if convs:
            q, k, v = (x[b] @ convs[n]["kernel"] + convs[n]["bias"] for n in ("query", "key", "value"))
        k = pool(k, SIZES[key_sizes], mode)
        v = pool(v, SIZES[value_sizes], mode)
        for i, j in np.ndindex(x.shape[1:3]):
            weights = softmax(np.array([q[i, j] @ k[t] for t in range(len(k))]))
            out[b, i, j] = lam * sum(weights[t] * v[t] for t in range(len(v))) + x[b, i, j]
    return out


def cpa(x, affinity, mu):
    """Eq. 10 to 14, channel by channel."""
    out = np.zeros_like(x)
    channels = x.shape[-1]
    for b in range(len(x)):
        columns = [x[b, :, :, c].reshape(-1) for c in range(channels)]
        for i in range(channels):
            d = np.array([columns[i] @ columns[j] for j in range(channels)])
            e = d.max() - d
            weights = softmax(e if affinity == "subtract" else e**2)
            attended = sum(weights[j] * columns[j] for j in range(channels))
            out[b, :, :, i] = mu * attended.reshape(x.shape[1:3]) + x[b, :, :, i]
    return out


def non_local(x, params):
    """Eq. 1 to 3 with one convolution for key and query, then back to C and the residual."""
    out = np.zeros_like(x)
    for b in range(len(x)):
        flat = x[b].reshape(-1, x.shape[-1])
        alpha = flat @ params["query_key"]["kernel"] + params["query_key"]["bias"]
        gamma = flat @ params["value"]["kernel"] + params["value"]["bias"]
        o = np.array([softmax(alpha @ row) @ gamma for row in alpha])
        o = o @ params["output"]["kernel"] + params["output"]["bias"]
        out[b] = o.reshape(x[b].shape) + x[b]
    return out


def random_like(shapes):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)


def params_of(module, channels=CHANNELS, size=(HEIGHT, WIDTH)):
    """The shapes of a module's parameters."""
    x = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x)["params"]


def count(shapes):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "sizes, qkv, mode",
    list(itertools.product(("mixed", "even", "odd"), ("identity", "conv"), ("avg", "max"))),
)
def test_spa_is_equations_8_and_9(x, sizes, qkv, mode):
    module = SpatialPoolAttention(sizes, qkv, mode)
    params = random_like(params_of(module))
    params["lambda"] = np.array(0.7)
    with jax.enable_x64(True):
        out = jax.jit(module.apply)({"params": params}, x)
    convs = params if qkv == "conv" else None
    np.testing.assert_allclose(out, spa(x, sizes, mode, 0.7, convs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("affinity", ["subtract", "square"])
def test_cpa_is_equations_10_to_14(x, affinity):
    x = 0.3 * x  # else the softmax of the squares is one-hot
    with jax.enable_x64(True):
        out = ChannelPoolAttention(affinity).apply({"params": {"mu": np.array(-1.3)}}, jnp.asarray(x))
    np.testing.assert_allclose(out, cpa(x, affinity, -1.3), rtol=0, atol=1e-12)


def test_non_local_is_equations_1_to_3(x):
    module = NonLocal(4)
    params = random_like(params_of(module))
    with jax.enable_x64(True):
        out = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_allclose(out, non_local(x, params), rtol=0, atol=1e-11)


@pytest.mark.parametrize("module, name", [(SpatialPoolAttention(), "lambda"), (ChannelPoolAttention(), "mu")])
def test_one_parameter_and_identity_at_the_start(x, module, name):
    x = jnp.asarray(x, jnp.float32)
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    assert {key: leaf.shape for key, leaf in params.items()} == {name: ()}
    assert params[name] == 0
    np.testing.assert_array_equal(jax.jit(module.apply)({"params": params}, x), x)


def test_spa_with_convolutions_has_three_of_them():
    assert count(params_of(SpatialPoolAttention(qkv="conv"))) == 3 * (CHANNELS**2 + CHANNELS) + 1


def test_non_local_starts_as_identity(x):
    x = jnp.asarray(x, jnp.float32)
    np.testing.assert_array_equal(NonLocal(4).apply(NonLocal(4).init(jax.random.key(0), x), x), x)


@pytest.mark.parametrize("size, published", [((96, 96), 58.0), ((256, 128), 601.4)])
def test_non_local_has_the_multiply_adds_of_table_1(size, published):
    positions, reduced = size[0] * size[1], 256
    convolutions = positions * count(params_of(NonLocal(reduced), 2048, size))
    assert round((convolutions + 2 * positions**2 * reduced) / 1e9, 1) == published


@pytest.mark.parametrize(
    "module", [SpatialPoolAttention(dtype=jnp.bfloat16), ChannelPoolAttention(), NonLocal(4, jnp.bfloat16)]
)
def test_softmax_is_in_float32_under_bfloat16(x, equations, module):
    x = jnp.asarray(x, jnp.bfloat16)
    variables = {"params": params_of(module)}
    kinds = [
        e.outvars[0].aval.dtype for e in equations(module.apply, variables, x) if e.primitive.name == "exp"
    ]
    assert kinds == [jnp.float32]
    assert jax.eval_shape(module.apply, variables, x).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_cpa_in_bfloat16_is_near_the_equations(x):
    # Affinities near 1000, 4 apart from each other in bfloat16: rounded ones would be far off.
    x = np.asarray(jnp.asarray(0.2 * x + 5, jnp.bfloat16), np.float64)
    out = ChannelPoolAttention().apply({"params": {"mu": jnp.ones(())}}, jnp.asarray(x, jnp.bfloat16))
    np.testing.assert_allclose(np.asarray(out, np.float64), cpa(x, "subtract", 1), rtol=0.02)


@pytest.mark.parametrize(
    "module, option, choices",
    [
        (SpatialPoolAttention, {"sizes": "both"}, ("mixed", "even", "odd")),
        (SpatialPoolAttention, {"qkv": "cnn"}, ("identity", "conv")),
        (SpatialPoolAttention, {"pool": "mean"}, ("avg", "max")),
        (ChannelPoolAttention, {"affinity": "add"}, ("subtract", "square")),
    ],
)
def test_a_wrong_option_is_named(assert_names, module, option, choices):
    with pytest.raises(OptionError) as error:
        module(**option)
    assert_names(error.value, *option.items(), choices)
