"""Protocols `slide` and `multiscale` against `whole`, a transcription in NumPy, symmetry and tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.evaluation import protocols
from dpanet_jax.evaluation.options import Evaluation
from dpanet_jax.evaluation.protocols import slide, windows
from dpanet_jax.evaluation.protocols.slide import Multiscale, Slide
from dpanet_jax.evaluation.protocols.whole import Whole, prepared


class Sums:
    """A network whose logits depend on the place in the window, so that overlapping windows differ."""

    dtype = jnp.float32
    align_corners = False
    num_classes = 2
    compiled = 0

    def apply(self, variables, images, train):
        type(self).compiled += 1
        return {"logits": jnp.cumsum(jnp.cumsum(images[..., :2], axis=1), axis=2) / 8}

    @staticmethod
    def by_hand(window):
        logits = np.cumsum(np.cumsum(window[..., :2], axis=0), axis=1) / 8
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def by_hand(pixels, window, stride):
    """Every `stride`, the last window moved back to the edge; smaller images padded with zero."""
    normal = np.asarray(prepared(jnp.asarray(pixels[None]), 0, jnp.float32))[0]
    height, width = normal.shape[:2]
    padded = np.pad(normal, ((0, max(0, window - height)), (0, max(0, window - width)), (0, 0)))
    total, count = np.zeros((*padded.shape[:2], 2)), np.zeros((*padded.shape[:2], 1))
    tops, lefts = (
        sorted({min(i, length - window) for i in range(0, length, stride)}) for length in padded.shape[:2]
    )
    for top in tops:
        for left in lefts:
            part = np.s_[top : top + window, left : left + window]
            total[part] += Sums.by_hand(padded[part])
            count[part] += 1
    return (total / count)[:height, :width]


@pytest.mark.parametrize("size", [(13, 20), (5, 17), (9, 9), (3, 4)])
def test_overlapping_windows_are_averaged(size):
    pixels = image(*size)
    expected = by_hand(pixels, 9, 6)
    protocol = Slide(Sums(), window=(9, 9))
    found = protocol.probabilities(pixels[None], {})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected, atol=2e-6)
    np.testing.assert_array_equal(protocol.ids(pixels[None], {})[0], found[0].argmax(axis=-1))


def test_one_window_is_whole():
    pixels = image(9, 12)[None]
    one, whole = Slide(Sums(), window=(9, 12)), Whole(Sums())
    np.testing.assert_allclose(one.probabilities(pixels, {}), whole.probabilities(pixels, {}), atol=1e-6)
    np.testing.assert_array_equal(one.ids(pixels, {}), whole.ids(pixels, {}))


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.5)])
def test_tiles_change_nothing(scales, monkeypatch):
    """An image in tiles of few pixels has the probabilities of one in a single piece."""
    pixels = [image(13, 20), image(7, 8, 1)]
    protocol = Slide(Sums(), window=(9, 9), scales=scales)
    expected, ids = protocol.probabilities(pixels, {}), protocol.ids(pixels, {})
    monkeypatch.setattr(slide, "TILE_BYTES", 600)
    assert len(windows.tiles((13, 20), 75)) > 2
    for one, other in zip(protocol.probabilities(pixels, {}), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    for one, other in zip(protocol.ids(pixels, {}), ids, strict=True):
        assert (one == other).mean() > 0.99


def test_sizes_are_not_compiled_for():
    """Eight images of eight sizes trace the network as often as eight of one size: once."""
    counts = []
    for sizes in ([(13, 20)] * 8, [(8 + i, 21 - i) for i in range(8)]):
        protocol, Sums.compiled = Multiscale(Sums(), window=(9, 9), scales=(0.5, 1.0)), 0
        protocol.ids([image(*size) for size in sizes], {})
        counts.append(Sums.compiled)
    assert counts == [1, 1]


def test_flips_of_a_symmetric_network_cancel(threshold):
    pixels = image(9, 14)[None]
    plain, flipped = (
        Slide(threshold(), window=(9, 9), flip=flip).probabilities(pixels, threshold.variables)
        for flip in (False, True)
    )
    np.testing.assert_allclose(plain, flipped, atol=1e-6)
    one_sided = [Slide(Sums(), window=(9, 9), flip=flip).probabilities(pixels, {}) for flip in (False, True)]
    assert np.abs(one_sided[0] - one_sided[1]).max() > 0.01


@pytest.mark.parametrize("name", ["slide", "multiscale", "center_crop"])
@pytest.mark.parametrize("window_batch", [1, 3])
def test_several_devices_give_what_one_does(name, window_batch, monkeypatch):
    """Windows of images of three sizes, on one device and on eight, by batches of one and of three each."""
    pixels = [image(*size, seed) for seed, size in enumerate([(13, 20), (7, 8), (20, 9)])]
    options = Evaluation(window=(9, 8), window_batch=window_batch, scales=(0.5, 1.0))
    several = protocols.make(name, Sums(), options=options).probabilities(pixels, {})
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    alone = protocols.make(name, Sums(), options=Evaluation(window=(9, 8), scales=(0.5, 1.0)))
    assert (alone._devices.count, alone._rows) == (1, 1)
    for one, other in zip(alone.probabilities(pixels, {}), several, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("size", [(10, 12), (40, 26)])
def test_a_part_of_a_scaled_image_is_that_part_of_the_whole(size):
    pixels = image(20, 25)
    full = windows.pixels_of(pixels, size, windows.Rect(0, size[0], 0, size[1]))
    rect = windows.Rect(3, 9, 2, 11)
    part = windows.pixels_of(pixels, size, rect)
    np.testing.assert_allclose(part, full[3:9, 2:11], atol=0.01)


def test_options_reach_the_protocol():
    assert protocols.make("slide", Sums(), crop_size=(8, 6)).window == (8, 6)
    assert isinstance(protocols.make("multiscale", Sums()), Multiscale)
