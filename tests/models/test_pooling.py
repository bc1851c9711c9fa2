"""Pooling against PyTorch's: golden values (scripts/make_golden.py), and live where it is installed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.models.pooling import EVEN, ODD, adaptive_pool, bins, pyramid_pool

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "torch.npz")
POOLED = sorted(key for key in GOLDEN if key.startswith("pool_") and key.count("_") == 3)


def pooled_by_hand(x, n, mode):
    """(B, n, n, C): each bin by its definition, in float64."""
    height, width = x.shape[1:3]
    y = np.zeros((x.shape[0], n, n, x.shape[3]))
    for i, j in np.ndindex(n, n):
        rows = slice(int(np.floor(i * height / n)), int(np.ceil((i + 1) * height / n)))
        columns = slice(int(np.floor(j * width / n)), int(np.ceil((j + 1) * width / n)))
        y[:, i, j] = getattr(np, {"avg": "mean", "max": "max"}[mode])(x[:, rows, columns], axis=(1, 2))
    return y


def test_golden_covers_both_kinds_of_size():
    covered = {tuple(key.split("_")[1:]) for key in POOLED}
    for mode in ("avg", "max"):
        assert ("12x20", mode, "4") in covered  # divides
        assert ("13x9", mode, "7") in covered  # overlaps
        assert ("5x3", mode, "13") in covered  # fewer positions than bins


@pytest.mark.parametrize("key", POOLED)
def test_adaptive_pool_is_pytorch_s(key):
    _, size, mode, n = key.split("_")
    with jax.enable_x64(True):
        x = jnp.asarray(GOLDEN[f"pool_{size}"], jnp.float64)
        np.testing.assert_allclose(adaptive_pool(x, int(n), mode), GOLDEN[key], rtol=0, atol=1e-12)


@pytest.mark.parametrize("height, width", [(12, 12), (24, 13), (11, 30), (3, 2)])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_adaptive_pool_is_pytorch_s_live(height, width, mode):
    torch = pytest.importorskip("torch")
    reference = getattr(torch.nn.functional, f"adaptive_{mode}_pool2d")
    x = np.random.default_rng(0).normal(size=(2, height, width, 3))
    sizes = sorted({*EVEN, *ODD})
    with jax.enable_x64(True):
        pooled = jax.jit(lambda x: [adaptive_pool(x, n, mode) for n in sizes])(x)
    for n, ours in zip(sizes, pooled, strict=True):
        expected = reference(torch.from_numpy(x).permute(0, 3, 1, 2), n).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-14)


def test_bins_cover_the_axis_and_overlap_where_it_does_not_divide():
    assert bins(12, 4) == [(0, 3), (3, 6), (6, 9), (9, 12)]
    assert bins(7, 3) == [(0, 3), (2, 5), (4, 7)]
    assert bins(2, 4) == [(0, 1), (0, 1), (1, 2), (1, 2)]


@pytest.mark.parametrize("sizes", [EVEN, ODD])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_pyramid_is_325_positions_level_by_level_row_major(sizes, mode):
    x = np.random.default_rng(1).normal(size=(2, 9, 14, 3))
    with jax.enable_x64(True):
        pooled = np.asarray(pyramid_pool(jnp.asarray(x), sizes, mode))
    assert pooled.shape == (2, 325, 3)
    position = 0
    for n in sizes:
        level = pooled_by_hand(x, n, mode)
        for i, j in np.ndindex(n, n):
            np.testing.assert_allclose(pooled[:, position], level[:, i, j], atol=1e-14)
            position += 1
    assert position == 325


def test_bfloat16_is_summed_in_float32():
    # 257 is no bfloat16 number, so a bfloat16 sum of 512 ones would stop at 256.
    x = jnp.ones((1, 16, 32, 1), jnp.bfloat16)
    pooled = adaptive_pool(x, 1)
    assert pooled.dtype == jnp.bfloat16
    assert pooled.item() == 1


def test_another_mode_is_an_error():
    with pytest.raises(ValueError, match=r"^mode='mean': choose one of avg, max$"):
        adaptive_pool(jnp.ones((1, 2, 2, 1)), 1, "mean")
