"""Bilinear resizing against PyTorch's: golden values (scripts/make_golden.py), and live where installed."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.models.resize import resize_bilinear

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "torch.npz")
RESIZED = sorted(key for key in GOLDEN if "_to_" in key)


@pytest.mark.parametrize("key", RESIZED)
def test_golden(key):
    old, height, width, corners = re.fullmatch(r"resize_(\w+)_to_(\d+)x(\d+)_(\w+)", key).groups()
    with jax.enable_x64(True):
        x = jnp.asarray(GOLDEN[f"resize_{old}"], jnp.float64)
        resized = resize_bilinear(x, (int(height), int(width)), align_corners=corners == "corners")
        np.testing.assert_allclose(resized, GOLDEN[key], rtol=0, atol=1e-12)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "old, new", [((6, 9), (48, 70)), ((30, 17), (7, 5)), ((1, 5), (4, 1)), ((3, 1), (1, 6)), ((4, 4), (4, 4))]
)
def test_live(old, new, align_corners):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, *old, 3))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), new, mode="bilinear", align_corners=align_corners
    )
    with jax.enable_x64(True):
        resized = resize_bilinear(jnp.asarray(x), new, align_corners)
        np.testing.assert_allclose(resized, expected.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-13)


def test_dtype_is_kept():
    assert resize_bilinear(jnp.ones((1, 2, 2, 1), jnp.bfloat16), (3, 5)).dtype == jnp.bfloat16
