"""Convolution, pooling, batch norm and dropout: as PyTorch computes them, against NumPy and golden values."""

from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dpanet_jax.models.layers import (
    BatchNorm,
    ChannelDropout,
    Conv,
    Numerics,
    average_down,
    average_pool,
    max_pool,
)
from dpanet_jax.options import OptionError

RNG = {"dropout": jax.random.key(3)}
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "torch.npz")


def test_kernels_start_as_pytorchs_resnets():
    """Normal, variance 2 / fan_out; batch norms are the identity."""
    for kernel_size, features in ((1, 256), (3, 64), (7, 64)):
        conv = Conv(features, kernel_size)
        kernel = conv.init(jax.random.key(0), jnp.zeros((1, 8, 8, 128)))["params"]["kernel"]
        assert kernel.shape == ((kernel_size,) * 2 if kernel_size > 1 else ()) + (128, features)
        assert abs(kernel.std() / np.sqrt(2 / (kernel_size**2 * features)) - 1) < 0.02
        assert abs(kernel.mean()) < kernel.std() / 50


@pytest.mark.parametrize("stride", [1, 2])
def test_a_1x1_convolution_is_a_convolution(stride):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 5))
    conv = Conv(4, 1, stride)
    variables = conv.init(jax.random.key(1), x)
    expected = jax.lax.conv_general_dilated(
        x,
        variables["params"]["kernel"][None, None],
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(conv.apply(variables, x), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)])
def test_max_pool(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    height, width = (-(-n // 2) for n in size)
    expected = np.empty((2, height, width, 3), np.float32)
    for i, j in np.ndindex(height, width):
        expected[:, i, j] = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2))
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), expected)


@pytest.mark.parametrize("name", ["maxpool_7x10", "maxpool_8x5"])
def test_max_pool_and_its_gradient_with_ties_are_the_golden_ones(name):
    x = jnp.asarray(GOLDEN[name], jnp.float32)
    y, backward = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(y, GOLDEN[f"{name}_value"])
    (gradient,) = backward(jnp.asarray(GOLDEN[f"{name}_cotangent"], jnp.float32))
    np.testing.assert_array_equal(gradient, GOLDEN[f"{name}_gradient"])


def test_gradient_of_max_pool_is_pytorchs_where_values_are_equal():
    """After a ReLU most windows hold several zeros, and few distinct values make many ties here."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, 9, 8, 3)).astype(np.float32)
    weights = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    leaf = torch.tensor(x, requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(leaf.permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)
    (pooled * torch.from_numpy(weights)).sum().backward()
    gradient = jax.grad(lambda x: (max_pool(x) * weights).sum())(jnp.asarray(x))
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), atol=1e-6)


def test_a_grouped_convolution_is_xlas():
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 8))
    conv = Conv(10, stride=2, dilation=2, groups=2)
    variables = conv.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (3, 3, 4, 10)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (2, 2),
        [(2, 2), (2, 2)],
        rhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    )
    np.testing.assert_allclose(conv.apply(variables, x), expected, atol=1e-5)


CONVOLUTIONS = {
    "wide": {"kernel_size": (1, 5)},
    "high": {"kernel_size": (7, 1), "stride": 2},
    "oblong": {"kernel_size": (3, 5), "dilation": 2, "use_bias": True},
    "oblong, 2 groups": {"kernel_size": (3, 1), "groups": 2, "stride": 2},
    "depthwise": {"groups": 16, "dilation": 3},
    "depthwise, twice the features": {"groups": 16, "features": 32, "stride": 2, "use_bias": True},
    "8 groups": {"groups": 8, "kernel_size": (5, 3)},
    "1×1, 8 groups": {"groups": 8, "kernel_size": 1, "stride": 2},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_and_their_gradients_are_pytorchs(options):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    conv = Conv(**{"features": 16, "param_dtype": jnp.float64, **options})
    x = rng.normal(size=(2, 11, 13, 16))
    with jax.enable_x64(True):
        shapes = jax.eval_shape(conv.init, jax.random.key(0), jnp.asarray(x))["params"]
        params = {name: rng.normal(size=leaf.shape) for name, leaf in shapes.items()}
        ours = jax.jit(lambda params, x: conv.apply({"params": params}, x))(params, x)
        cotangent = rng.normal(size=ours.shape)
        gradients, image_gradient = jax.jit(
            jax.grad(lambda params, x: (conv.apply({"params": params}, x) * cotangent).sum(), argnums=(0, 1))
        )(params, x)
    image, kernel = (
        torch.tensor(np.transpose(array, order), requires_grad=True)
        for array, order in ((x, (0, 3, 1, 2)), (params["kernel"], (3, 2, 0, 1)))
    )
    bias = torch.tensor(params["bias"], requires_grad=True) if conv.use_bias else None
    padding = [conv.dilation * (n // 2) for n in params["kernel"].shape[:2]]
    theirs = torch.nn.functional.conv2d(image, kernel, bias, conv.stride, padding, conv.dilation, conv.groups)
    (theirs * torch.tensor(cotangent.transpose(0, 3, 1, 2))).sum().backward()
    pairs = {
        "value": (ours, theirs.detach().permute(0, 2, 3, 1)),
        "of the image": (image_gradient, image.grad.permute(0, 2, 3, 1)),
        "of the kernel": (gradients["kernel"], kernel.grad.permute(2, 3, 1, 0)),
    }
    if bias is not None:
        pairs["of the bias"] = (gradients["bias"], bias.grad)
    for name, (found, expected) in pairs.items():
        scale = expected.abs().max().item()
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-12 * scale, err_msg=name)


@pytest.mark.parametrize("groups, convolutions", [(1, 1), (2, 2), (128, 1)])
def test_many_groups_are_one_convolution(equations, groups, convolutions):
    """Of a few groups each is a convolution, which is faster on a CPU; 128 would take long to compile."""
    conv = Conv(128, groups=groups)
    x = jnp.zeros((1, 8, 8, 128))
    params = jax.eval_shape(conv.init, jax.random.key(0), x)
    assert params["params"]["kernel"].shape == (3, 3, 128 // groups, 128)
    found = [e for e in equations(conv.apply, params, x) if e.primitive.name == "conv_general_dilated"]
    assert len(found) == convolutions


def test_layers_of_the_same_shape_are_traced_once():
    layers = nn.Sequential([*(Conv(8) for _ in range(3)), *(BatchNorm(False) for _ in range(3))])
    x = jax.ShapeDtypeStruct((2, 6, 6, 8), jnp.float32)
    variables = jax.eval_shape(layers.init, jax.random.key(0), x)
    traced = jax.make_jaxpr(partial(layers.apply, mutable=["batch_stats"]))(variables, x)
    programs = [each.params["jaxpr"] for each in traced.eqns if "jaxpr" in each.params]
    assert len(programs) == 6
    assert len({id(program) for program in programs}) == 2


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_average_pool_counts_the_padding(size, stride):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = (-(-n // stride) for n in size)
    expected = np.empty((2, height, width, 3))
    for i, j in np.ndindex(height, width):
        window = padded[:, stride * i : stride * i + 3, stride * j : stride * j + 3]
        expected[:, i, j] = window.sum(axis=(1, 2)) / 9
    np.testing.assert_allclose(average_pool(jnp.asarray(x), 3, stride), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 3)])
def test_average_down_averages_over_what_is_inside(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    height, width = (-(-n // 2) for n in size)
    expected = np.empty((2, height, width, 3))
    for i, j in np.ndindex(height, width):
        expected[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(axis=(1, 2))
    np.testing.assert_allclose(average_down(jnp.asarray(x), 2), expected, atol=1e-6)
    assert average_down(jnp.asarray(x), 1).shape == x.shape


def running_variance(x, variance, mapped=False):
    """After one step from a running variance of 1."""
    norm = BatchNorm(
        use_running_average=False,
        momentum=0.9,
        param_dtype=jnp.float64,
        variance=variance,
        axis_name="devices" if mapped else None,
    )
    start = {
        "params": {"scale": np.ones(x.shape[-1]), "bias": np.zeros(x.shape[-1])},
        "batch_stats": {"mean": np.zeros(x.shape[-1]), "var": np.ones(x.shape[-1])},
    }

    def step(x):
        y, updates = norm.apply(start, x, mutable=["batch_stats"])
        return y, updates["batch_stats"]["var"]

    if mapped:
        mesh = jax.make_mesh((4,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
        split, whole = PartitionSpec("devices"), PartitionSpec()
        step = jax.shard_map(step, mesh=mesh, in_specs=split, out_specs=(split, whole))
    return step(x)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("variance", ["unbiased", "biased"])
def test_running_variance(variance, mapped):
    """Over the global batch, also where it is spread over devices; the batch's own is biased."""
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(3, 2, size=(4, 1, 2, 3))
        y, running = running_variance(x, variance, mapped)
        expected = 0.9 + 0.1 * x.var(axis=(0, 1, 2), ddof=variance == "unbiased")
        np.testing.assert_allclose(running, expected, rtol=1e-12)
        normalised = (x - x.mean((0, 1, 2))) / np.sqrt(x.var(axis=(0, 1, 2)) + 1e-5)
        np.testing.assert_allclose(y, normalised, rtol=1e-9, atol=1e-12)


def test_running_variance_of_a_single_position_stays_finite():
    with jax.enable_x64(True):
        _, running = running_variance(np.ones((1, 1, 1, 3)), "unbiased")
        np.testing.assert_allclose(running, 0.9 * np.ones(3), rtol=1e-12)


def test_a_wrong_variance_is_named(assert_names):
    with pytest.raises(OptionError) as error:
        Numerics(bn_variance="sample")
    assert_names(error.value, ("bn_variance", "sample"), ("unbiased", "biased"))


def test_dropout_takes_whole_channels_at_its_rate():
    x = 1 + jax.random.uniform(jax.random.key(0), (8, 3, 4, 500))
    y = ChannelDropout(0.25).apply({}, x, train=True, rngs=RNG)
    dropped = np.asarray(y == 0).all((1, 2))
    np.testing.assert_array_equal(dropped, np.asarray(y == 0).any((1, 2)))
    kept = np.broadcast_to(~dropped[:, None, None], x.shape)
    np.testing.assert_allclose(np.asarray(y)[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)
    # 4000 draws: four standard deviations are 0.027.
    assert abs(dropped.mean() - 0.25) < 0.028
    assert not (dropped == dropped[0]).all()  # each example has its own


def test_dropout_is_off_outside_training_and_at_rate_0():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 8))
    np.testing.assert_array_equal(ChannelDropout(0.5).apply({}, x, train=False), x)
    np.testing.assert_array_equal(ChannelDropout(0.0).apply({}, x, train=True), x)
    once, again = (ChannelDropout(0.5).apply({}, x, train=True, rngs=RNG) for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_dropout_under_a_mapped_axis_is_the_one_device_s():
    x = jax.random.normal(jax.random.key(0), (8, 2, 2, 16))
    expected = ChannelDropout(0.5).apply({}, x, train=True, rngs=RNG)

    def on_one_slice(rows):
        return ChannelDropout(0.5, "devices").apply({}, rows, train=True, rngs=RNG)

    spread = jax.vmap(on_one_slice, axis_name="devices")(x.reshape(4, 2, 2, 2, 16))
    np.testing.assert_array_equal(spread.reshape(x.shape), expected)


def test_dropout_keeps_bfloat16():
    x = jnp.ones((2, 2, 2, 4), jnp.bfloat16)
    assert ChannelDropout(0.1).apply({}, x, train=True, rngs=RNG).dtype == jnp.bfloat16
