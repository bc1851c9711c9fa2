"""Protocol `center_crop` against the published transform, written down again, and at an image's pixels."""

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.evaluation import protocols
from dpanet_jax.evaluation.evaluate import evaluate
from dpanet_jax.evaluation.options import Evaluation
from dpanet_jax.evaluation.protocols.center_crop import CenterCrop
from dpanet_jax.options import OptionError

CROP = 12


def published(image, label, crop):
    """Its `_val_sync_transform`: the short side to the crop, the centre of both."""
    image, label = Image.fromarray(image), Image.fromarray(label)
    w, h = image.size
    ow, oh = (int(1.0 * w * crop / h), crop) if w > h else (crop, int(1.0 * h * crop / w))
    image, label = image.resize((ow, oh), Image.BILINEAR), label.resize((ow, oh), Image.NEAREST)
    left, top = int(round((ow - crop) / 2.0)), int(round((oh - crop) / 2.0))
    box = (left, top, left + crop, top + crop)
    return np.asarray(image.crop(box)), np.asarray(label.crop(box))


def example(seed, size):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    return image, rng.choice([0, 1, 2, 255], size).astype(np.uint8)


SIZES = [(12, 12), (7, 9), (31, 17), (12, 25), (40, 40), (5, 30), (13, 14)]


@pytest.mark.parametrize("size", SIZES)
def test_the_crop_is_the_published_one(size, threshold):
    image, label = example(0, size)
    crops, labels = CenterCrop(threshold(), window=(CROP, CROP)).measured(image[None], label[None])
    expected = published(image, label, CROP)
    np.testing.assert_array_equal(crops[0], expected[0])
    np.testing.assert_array_equal(labels[0], expected[1])


class Split:
    """An example of each size, two of the first."""

    labelled, name, sizes = True, "val", (*SIZES, SIZES[0])

    def __init__(self, classes):
        self.classes = classes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        image, label = example(index, self.sizes[index])
        return {"image": image, "label": label, "name": str(index)}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_crops_are_measured_and_nothing_else(batch_size, threshold):
    """The counts of a split, and what observers see, whatever the batch; one shape is compiled."""
    from dpanet_jax.data.classes import Classes

    split = Split(Classes.from_ids(["a", "b", "c"], [(0, 0, 0), (1, 1, 1), (2, 2, 2)]))
    seen, expected = {}, np.zeros((3, 3), np.int64)

    class Observer:
        def see(self, name, index, label, prediction):
            seen[index] = label, prediction

    for i in range(len(split)):
        image, label = published(split[i]["image"], split[i]["label"], CROP)
        np.add.at(expected, (label[label != 255], threshold.by_hand(image)[label != 255]), 1)
    protocol = CenterCrop(threshold(), window=(CROP, CROP))
    evaluated = evaluate(protocol, threshold.variables, split, batch_size, keep=(2,), observers=[Observer()])
    np.testing.assert_array_equal(evaluated.matrix.counts, expected)
    assert sorted(seen) == list(range(len(split))) and protocol._ids._cache_size() == 1
    assert {label.shape for pair in seen.values() for label in pair} == {(CROP, CROP)}
    image, label = published(split[2]["image"], split[2]["label"], CROP)
    np.testing.assert_array_equal(evaluated.kept[2].image, image)
    np.testing.assert_array_equal(evaluated.kept[2].label, label)
    np.testing.assert_array_equal(evaluated.kept[2].prediction, threshold.by_hand(image))


@pytest.mark.parametrize("size", SIZES)
def test_an_image_has_the_ids_of_its_crop_where_that_shows_it(size, threshold):
    image, label = example(1, size)
    protocol = CenterCrop(threshold(), window=(CROP, CROP))
    (ids,) = protocol.ids([image], threshold.variables)
    (probabilities,) = protocol.probabilities([image], threshold.variables)
    crop = threshold.by_hand(published(image, label, CROP)[0])
    # Resized as a label is, the ids would be those of the crop, and 255 beside them: pixel by pixel.
    factor = CROP / min(size)
    height, width = max(CROP, int(size[0] * CROP / min(size))), max(CROP, int(size[1] * CROP / min(size)))
    top, left = int(round((height - CROP) / 2)), int(round((width - CROP) / 2))
    for y in range(size[0]):
        for x in range(size[1]):
            row, column = int((y + 0.5) * height / size[0]) - top, int((x + 0.5) * width / size[1]) - left
            if 0 <= row < CROP and 0 <= column < CROP:
                assert ids[y, x] == crop[row, column]
            else:
                assert ids[y, x] == 255
    assert (ids != 255).sum() >= (CROP / factor - 1) ** 2
    np.testing.assert_allclose(probabilities.sum(axis=-1), ids != 255, atol=1e-6)
    np.testing.assert_array_equal(probabilities.argmax(axis=-1)[ids != 255], ids[ids != 255])


def test_a_crop_that_is_no_square_and_crops_that_share_batches(threshold):
    """Three images on eight devices, two at a time on each: one batch, whose other rows fill it up."""
    protocol = protocols.make(
        "center_crop", threshold(), options=Evaluation(window_batch=2), crop_size=(6, 10)
    )
    images = [example(i, size)[0] for i, size in enumerate([(6, 10), (20, 10), (9, 40)])]
    found = protocol.ids(images, threshold.variables)
    np.testing.assert_array_equal(found[0], threshold.by_hand(images[0]))
    np.testing.assert_array_equal(found[1][7:13], threshold.by_hand(images[1][7:13]))
    assert (found[1] == 255).sum() == 14 * 10 and found[2].shape == (9, 40)
    assert not (found[2][:, 13:27] == 255).any() and (found[2][:, :11] == 255).all()


def test_base_size_is_not_its_own(threshold):
    with pytest.raises(OptionError, match="base_size=64: center_crop .* leave it at 0"):
        protocols.make("center_crop", threshold(), base_size=64)
    with pytest.raises(OptionError, match="base_size=64: protocol=center_crop"):
        Evaluation(protocol="center_crop", base_size=64)
