"""3×3 convolutions by tiles against the sum as it is written, in NumPy and by XLA."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.models import winograd
from dpanet_jax.models.layers import Conv
from dpanet_jax.training.traced import equations

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="tiles are for a CPU")


def written_out(x, kernel, dilation):
    """Σ over the taps of x, shifted, times the kernel's matrix, in float64."""
    height, width = x.shape[1:3]
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (dilation,) * 2, (dilation,) * 2, (0, 0)))
    y = 0
    for i in range(3):
        for j in range(3):
            shifted = padded[:, i * dilation : i * dilation + height, j * dilation : j * dilation + width]
            y = y + shifted @ np.asarray(kernel[i, j], np.float64)
    return y


def transformed(kernel):
    """G g Gᵀ by Lavin and Gray's equation 9: (3, 3, C, O) → (16, C, O)."""
    g = np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]])
    whole = np.einsum("ai,bj,ijco->abco", g, g, np.asarray(kernel, np.float64))
    return jnp.asarray(whole.reshape(16, *kernel.shape[2:]), jnp.float32)


def case(height, width, channels=3, features=5):
    rng = np.random.default_rng(height * width)
    x = rng.standard_normal((2, height, width, channels), np.float32)
    kernel = rng.standard_normal((3, 3, channels, features), np.float32)
    dy = rng.standard_normal((2, height, width, features), np.float32)
    return jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(dy)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("size", "dilation", "band_bytes"),
    [
        ((4, 6), 1, 2**28),
        ((7, 5), 1, 2**28),
        ((9, 8), 2, 2**28),
        ((3, 17), 4, 2**28),
        # Three bands of two rows of tiles, where the image has five; and bands of one.
        ((10, 6), 1, 2**11),
        ((13, 9), 2, 1),
    ],
)
def test_the_output_and_both_gradients(size, dilation, band_bytes, known, monkeypatch):
    """A transformed kernel that is known is used for the output; the gradient is still the kernel's."""
    monkeypatch.setattr(winograd, "_BAND_BYTES", band_bytes)
    x, kernel, dy = case(*size)

    @jax.jit
    def both(x, kernel, of_kernel, dy):
        y, gradients = jax.vjp(lambda *of: winograd.convolve(*of, of_kernel, dilation), x, kernel)
        return y, *gradients(dy)

    y, dx, dkernel = both(x, kernel, transformed(kernel) if known else None, dy)
    np.testing.assert_allclose(y, written_out(x, kernel, dilation), rtol=0, atol=3e-5)
    # The gradient of the input is the convolution of dy with the kernel turned around.
    turned = np.asarray(kernel)[::-1, ::-1].swapaxes(2, 3)
    np.testing.assert_allclose(dx, written_out(dy, turned, dilation), rtol=0, atol=3e-5)
    # The output is linear in the kernel: Σ dy · y(other kernel) = Σ gradient · other kernel.
    for seed in range(3):
        other = np.random.default_rng(seed).standard_normal(kernel.shape)
        left = np.sum(np.asarray(dy, np.float64) * written_out(x, other, dilation))
        scale = np.sqrt(np.sum(np.square(dkernel, dtype=np.float64)))
        assert abs(left - np.sum(np.asarray(dkernel, np.float64) * other)) < 1e-5 * scale


def test_bands_are_as_many_as_said():
    x = jnp.zeros((2, 10, 6, 3))
    assert winograd._Bands.of(x, 1).number == 1
    size = 16 * 2 * 5 * 3 * 3 * 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_BAND_BYTES", size // 3 + 1)
        bands = winograd._Bands.of(x, 1)
    assert (bands.number, bands.rows) == (3, 4)


def test_what_is_not_finite_stays_in_its_interleaved_image():
    """As in the sum: of a dilated convolution no output reads the rows and columns between its own."""
    x, kernel, dy = case(9, 8)
    x, dy = x.at[:, 0, 0].set(jnp.inf), dy.at[:, 0, 0].set(jnp.nan)
    convolve = jax.jit(partial(winograd.convolve, transformed=None, dilation=2))
    y, gradients = jax.vjp(convolve, x, kernel)
    for found in (y, gradients(dy)[0]):
        is_finite = np.isfinite(found).all((0, 3))
        assert not is_finite[0, 0]
        assert is_finite[1::2].all()
        assert is_finite[:, 1::2].all()


def arrays(x=(2, 24, 24, 256), kernel=(3, 3, 256, 128), dtype="float32"):
    return jax.ShapeDtypeStruct(x, dtype), jax.ShapeDtypeStruct(kernel, dtype)


def test_it_is_for_large_float32_convolutions_alone():
    assert winograd.pays(*arrays(), dilation=1)
    assert winograd.pays(*arrays(), dilation=4)
    assert not winograd.pays(*arrays(dtype="bfloat16"), dilation=1)
    assert not winograd.pays(*arrays(kernel=(3, 3, 256, 64)), dilation=1)
    assert not winograd.pays(*arrays(kernel=(3, 1, 256, 128)), dilation=1)
    assert not winograd.pays(*arrays(x=(2, 8, 8, 256)), dilation=1)
    # 26 rows are four tiles of 8: 32.
    assert not winograd.pays(*arrays(x=(2, 26, 26, 256)), dilation=4)
    assert not winograd.pays(*arrays(kernel=(3, 3, 128, 128)), dilation=1)


@pytest.mark.parametrize(("dilation", "groups"), [(1, 1), (2, 2)])
def test_a_layer_takes_it_and_counts_as_before(dilation, groups):
    """The layer gives what XLA's convolution gives, and its program is counted as that convolution."""
    conv = Conv(128 * groups, 3, dilation=dilation, groups=groups)
    x = jax.random.normal(jax.random.key(0), (1, 24, 24, 128 * groups))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 128, 128 * groups)) / 50
    found = conv.apply({"params": {"kernel": kernel}}, x)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(dilation,) * 2] * 2,
        rhs_dilation=(dilation,) * 2,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    assert float(jnp.abs(found - expected).max()) < 3e-6 * float(jnp.abs(expected).max())
    traced = jax.make_jaxpr(lambda x: conv.apply({"params": {"kernel": kernel}}, x))(x)
    counted = [equation.primitive.name for equation, _ in equations(traced.jaxpr)]
    assert counted.count("conv_general_dilated") == groups
    assert "dot_general" not in counted
    compiled = jax.jit(lambda x: conv.apply({"params": {"kernel": kernel}}, x)).lower(x).compile().as_text()
    assert " convolution(" not in compiled


def test_a_layer_takes_the_transformed_kernel_that_it_is_given():
    """It is linear in it, and each of its groups takes its own part."""
    conv = Conv(256, 3, groups=2)
    x = jax.random.normal(jax.random.key(0), (1, 24, 24, 256))
    variables = {"params": {"kernel": jax.random.normal(jax.random.key(1), (3, 3, 128, 256)) / 50}}
    expected = conv.apply(variables, x)
    given = winograd.with_transformed_kernels(variables)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(conv.apply(given, x), expected, rtol=0, atol=3e-6 * scale)
    doubled = {**given, winograd.COLLECTION: jax.tree.map(lambda u: 2 * u, given[winograd.COLLECTION])}
    np.testing.assert_allclose(conv.apply(doubled, x), 2 * expected, rtol=0, atol=6e-6 * scale)


def test_which_kernels_are_transformed():
    def kernel(*shape, dtype=np.float32):
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)

    params = {
        "stage": {"conv": {"kernel": kernel(3, 3, 128, 130)}, "bn": {"scale": kernel(128)}},
        "few": {"kernel": kernel(3, 3, 128, 64)},
        "product": {"kernel": kernel(128, 128)},
        "wide": {"kernel": kernel(5, 5, 128, 128)},
        "precise": {"kernel": kernel(3, 3, 128, 128, dtype=np.float64)},
    }
    found = winograd.with_transformed_kernels({"params": params, "batch_stats": {"bn": 1}})
    assert found.keys() == {"params", "batch_stats", winograd.COLLECTION}
    assert found["params"] is params
    (path, of_kernel), *others = jax.tree_util.tree_leaves_with_path(found[winograd.COLLECTION])
    assert jax.tree_util.keystr(path, simple=True, separator="/") == "stage/conv/kernel"
    assert not others
    np.testing.assert_allclose(of_kernel, transformed(params["stage"]["conv"]["kernel"]), atol=2e-6)
