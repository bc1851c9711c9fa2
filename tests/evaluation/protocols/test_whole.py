"""Protocol `whole`: ids and probabilities against NumPy, resizing before the network and after it."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dpanet_jax.evaluation import protocols
from dpanet_jax.evaluation.protocols.whole import Whole, prepared
from dpanet_jax.options import OptionError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def images(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3)).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 8])
def test_ids_and_probabilities(threshold, count):
    """A batch of eight is split over the eight simulated devices, a lone image is not."""
    batch = images(count, (5, 7))
    protocol = protocols.make("whole", threshold())
    variables = protocol.put(threshold.variables)
    ids, probabilities = protocol.ids(batch, variables), protocol.probabilities(batch, variables)
    assert ids.dtype == np.uint8 and probabilities.dtype == np.float32
    exponentials = np.exp(threshold.logits_by_hand(batch))
    expected = exponentials / exponentials.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=2e-5)
    np.testing.assert_array_equal(ids, expected.argmax(axis=-1))


def test_a_protocol_that_is_not_there(threshold):
    with pytest.raises(OptionError, match="protocol='guess': choose one of whole"):
        protocols.make("guess", threshold())


def test_base_size_resizes_before_the_network_as_pillow_does(threshold):
    rng = np.random.default_rng(0)
    blocks = rng.choice([20, 235], (4, 8, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(blocks).resize((32, 16), Image.Resampling.NEAREST))
    seen = {}

    class Spy(threshold):
        def apply(self, variables, images, train):
            seen["shape"] = images.shape
            return super().apply(variables, images, train)

    protocol = Whole(Spy(), base_size=16)
    assert protocol.ids(image[None], threshold.variables).shape == (1, 16, 32)
    assert seen["shape"] == (1, 8, 16, 3)
    ours = np.asarray(prepared(jnp.asarray(image[None]), 16, jnp.float32)[0]) * STD + MEAN
    theirs = np.asarray(Image.fromarray(image).resize((16, 8), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(ours, theirs, atol=1.01 / 255)


@pytest.mark.parametrize(("align_corners", "dark"), [(False, 2), (True, 4)])
def test_logits_are_brought_back_as_the_model_says(align_corners, dark):
    """Three columns of logits over eight pixels: by the corners' centres the middle one reaches further."""

    class Columns:
        dtype = jnp.float32

        def apply(self, variables, images, train):
            logits = jnp.asarray([[-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
            return {"logits": jnp.broadcast_to(logits[None, None], (1, 1, 3, 2))}

    Columns.align_corners = align_corners
    predictions = Whole(Columns()).ids(np.zeros((1, 2, 8, 3), np.uint8), {})[0]
    position = np.arange(8) * 2 / 7 if align_corners else np.clip((np.arange(8) + 0.5) * 3 / 8 - 0.5, 0, 2)
    by_hand = np.interp(position, [0, 1, 2], [-1, 1, -1]) < 0
    np.testing.assert_array_equal(predictions, np.tile(by_hand, (2, 1)))
    assert (predictions == 0).sum() == 2 * dark
