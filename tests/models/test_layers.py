"""Convolution, pooling and batch norm: as PyTorch computes them, against NumPy and golden values."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dpanet_jax.models.layers import BatchNorm, Conv, average_down, average_pool, max_pool

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


def test_a_bad_variance_is_named():
    with pytest.raises(ValueError, match="bn_variance='sample': choose one of unbiased, biased"):
        running_variance(np.ones((2, 1, 1, 3)), "sample")
