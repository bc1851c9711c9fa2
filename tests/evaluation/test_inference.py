"""Evaluation over a split of mixed sizes against a count image by image, and resizing before the network."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data.classes import Classes
from dpanet_jax.evaluation.inference import Predictor, check_image, evaluate
from dpanet_jax.models.normalize import MEAN, STD

CLASSES = Classes.from_ids(["dark", "light", "red"], [(0, 0, 0), (255, 255, 255), (255, 0, 0)])


class Threshold:
    """Stands in for a Segmenter: logits of a pixel from its own colour, at the image's resolution."""

    dtype = jnp.float32
    align_corners = False

    def apply(self, variables, images, train):
        assert train is False
        red, green, _ = jnp.moveaxis(images, -1, 0)
        logits = jnp.stack([-green, green, variables["weight"] * (red - green)], axis=-1)
        return {"logits": logits}


VARIABLES = {"weight": np.float32(1.5)}


def by_hand(image):
    red, green, _ = np.moveaxis((image / 255 - MEAN) / STD, -1, 0)
    return np.argmax(np.stack([-green, green, 1.5 * (red - green)], axis=-1), axis=-1)


class Split:
    """Five examples of two sizes, with ignored pixels."""

    classes = CLASSES
    sizes = ((6, 8), (5, 9), (6, 8), (6, 8), (5, 9))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = rng.choice([0, 1, 2, 255], self.sizes[index]).astype(np.uint8)
        image = rng.integers(0, 256, (*self.sizes[index], 3)).astype(np.uint8)
        return {"image": image, "label": label, "name": str(index)}


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_example_counts_once_whatever_the_batch(batch_size):
    split = Split()
    expected = np.zeros((3, 3), np.int64)
    for i in range(len(split)):
        example = split[i]
        valid = example["label"] != 255
        np.add.at(expected, (example["label"][valid], by_hand(example["image"])[valid]), 1)
    matrix = evaluate(Predictor(Threshold(), CLASSES), split, batch_size, VARIABLES)
    np.testing.assert_array_equal(matrix.counts, expected)


def test_predict_one_and_a_list():
    predictor = Predictor(Threshold(), CLASSES, variables=VARIABLES)
    images = [Split()[i]["image"] for i in range(2)]
    one, (first, second) = predictor.predict(images[0]), predictor.predict(images)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, by_hand(images[0]))
    np.testing.assert_array_equal(first, one)
    np.testing.assert_array_equal(second, by_hand(images[1]))


def test_base_size_resizes_before_the_network_as_pillow_does():
    rng = np.random.default_rng(0)
    blocks = rng.choice([20, 235], (4, 8, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(blocks).resize((32, 16), Image.Resampling.NEAREST))
    seen = {}

    class Spy(Threshold):
        def apply(self, variables, images, train):
            seen["shape"] = images.shape
            return super().apply(variables, images, train)

    predictor = Predictor(Spy(), CLASSES, base_size=16, variables=VARIABLES)
    assert predictor.predict(image).shape == (16, 32)
    assert seen["shape"] == (1, 8, 16, 3)
    from dpanet_jax.evaluation.inference import _resized

    ours = np.asarray(_resized(jnp.asarray(image[None]), 16, jnp.float32)[0]) * STD + MEAN
    theirs = np.asarray(Image.fromarray(image).resize((16, 8), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(ours, theirs, atol=1.01 / 255)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_what_is_no_image(image):
    with pytest.raises(ValueError, match=r"must be uint8 \(height, width, 3\), RGB; got"):
        check_image(image)


@pytest.mark.parametrize(("align_corners", "dark"), [(False, 2), (True, 4)])
def test_logits_are_brought_back_as_the_model_says(align_corners, dark):
    """Three columns of logits over eight pixels: by the corners' centres the middle one reaches further."""

    class Columns:
        dtype = jnp.float32

        def apply(self, variables, images, train):
            logits = jnp.asarray([[-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
            return {"logits": jnp.broadcast_to(logits[None, None], (1, 1, 3, 2))}

    Columns.align_corners = align_corners
    predictor = Predictor(Columns(), CLASSES, variables={})
    predictions = predictor.predict(np.zeros((2, 8, 3), np.uint8))
    position = np.arange(8) * 2 / 7 if align_corners else np.clip((np.arange(8) + 0.5) * 3 / 8 - 0.5, 0, 2)
    by_hand = np.interp(position, [0, 1, 2], [-1, 1, -1]) < 0
    np.testing.assert_array_equal(predictions, np.tile(by_hand, (2, 1)))
    assert (predictions == 0).sum() == 2 * dark
