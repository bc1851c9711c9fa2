import io

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data import augment as augment_lib
from dpanet_jax.data.augment import (
    PAD_COLOR,
    draw_crop,
    is_mixed,
    photometric,
    reduction_for,
    resize_image,
    resize_label,
)
from dpanet_jax.data.augment import augment as augment_by
from dpanet_jax.data.images import Encoded
from dpanet_jax.data.options import Augmentation
from dpanet_jax.streets import draw_scene


def augment(example, rng, **options):
    return augment_by(example, rng, Augmentation(**options))


def test_padding_has_the_mean_colour_of_imagenet():
    assert PAD_COLOR == (124, 116, 104)


def smooth_example(height=40, width=60):
    """Red grows to the right and green downwards; the label is a step of each."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 4, y * 6, np.full_like(x, 90)], -1).astype(np.uint8)
    label = (x >= width / 2) + 2 * (y >= height / 2)
    return {"image": image, "label": label.astype(np.uint8)}


@pytest.mark.parametrize("seed", range(12))
def test_label_and_image_stay_aligned(seed):
    example = smooth_example()
    out = augment(
        example, np.random.default_rng(seed), crop_size=(32, 48), base_size=60, scale_range=(0.5, 2)
    )
    assert out["image"].shape == (32, 48, 3) and out["image"].dtype == np.uint8
    assert out["label"].shape == (32, 48) and out["label"].dtype == np.uint8
    assert out["extent"].dtype == np.int32
    height, width = out["extent"]
    red, green = (out["image"][:height, :width, c].astype(int) for c in (0, 1))
    label = out["label"][:height, :width]
    # Far enough from the step for the interpolation, the colour alone tells the class.
    right, below = red >= 30 * 4, green >= 20 * 6
    clear = (abs(red - 118) > 8) & (abs(green - 117) > 12)
    np.testing.assert_array_equal(label[clear], (right + 2 * below)[clear])
    assert clear.mean() > 0.5


def test_padding_is_right_and_bottom_with_ignored_labels():
    out = augment(
        smooth_example(),
        np.random.default_rng(0),
        crop_size=(64, 80),
        base_size=60,
        scale_range=(1, 1),
    )
    assert out["extent"].tolist() == [40, 60]
    inside = np.zeros((64, 80), bool)
    inside[:40, :60] = True
    assert (out["label"][~inside] == 255).all() and (out["label"][inside] != 255).all()
    assert (out["image"][~inside] == PAD_COLOR).all()


def test_crop_is_that_of_the_whole_resized_image():
    image = np.random.default_rng(0).integers(0, 256, (45, 61, 3), np.uint8)
    label = np.random.default_rng(1).integers(0, 9, (45, 61), np.uint8)
    for size in [(31, 43), (77, 104), (45, 61)]:
        whole = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        nearest = np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
        top, left, height, width = window = (5, 7, 20, 30)
        crop = np.s_[top : top + height, left : left + width]
        difference = np.asarray(resize_image(image, size, window)).astype(int) - whole[crop]
        assert abs(difference).max() <= 1
        np.testing.assert_array_equal(resize_label(label, size, window), nearest[crop])


def jpeg_scene():
    """A drawn street of odd sides as an array, and as a JPEG; and its label."""
    image, label = draw_scene(3, (301, 403), ignore_label=255)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    encoded = Encoded(file.getvalue(), "scene")
    return encoded.pixels(), encoded, label


def test_the_reduction_leaves_twice_the_size():
    sizes = {
        (1, 2): 8,
        (12, 20): 8,
        (13, 20): 4,
        (12, 21): 4,
        (25, 40): 4,
        (26, 40): 2,
        (51, 80): 1,
        (200, 320): 1,
    }
    assert {size: reduction_for((200, 320), size) for size in sizes} == sizes


@pytest.mark.parametrize("base_size", [150, 97, 41, 17])
def test_a_jpeg_is_decoded_smaller_and_shows_the_same(base_size):
    image, encoded, label = jpeg_scene()
    options = dict(crop_size=(32, 48), base_size=base_size, scale_range=(0.5, 1), color_jitter=0.3)
    is_reduced = False
    for seed in range(20):
        whole, reduced = (
            augment({"image": form, "label": label}, np.random.default_rng(seed), **options)
            for form in (image, encoded)
        )
        for key in ("label", "extent"):
            np.testing.assert_array_equal(reduced[key], whole[key])
        difference = abs(reduced["image"].astype(int) - whole["image"])
        # docs/input_speed.md states the bound for photographs; a shift of half a pixel is beyond it.
        assert difference.mean() < 1 and np.quantile(difference, 0.999) <= 12
        is_reduced |= bool(difference.any())
    assert is_reduced


def test_base_size_is_the_long_side():
    for height, width, expected in [(30, 60, (20, 40)), (60, 30, (40, 20)), (50, 50, (40, 40))]:
        example = {
            "image": np.zeros((height, width, 3), np.uint8),
            "label": np.zeros((height, width), np.uint8),
        }
        rng = np.random.default_rng(0)
        out = augment(example, rng, crop_size=(99, 99), base_size=40, scale_range=(1, 1))
        assert tuple(out["extent"]) == expected


def test_scales_and_positions_cover_their_range():
    example = smooth_example()
    rng = np.random.default_rng(0)
    outs = [augment(example, rng, crop_size=(200, 200), base_size=60) for _ in range(200)]
    long_sides = np.array([out["extent"][1] for out in outs])
    assert 30 <= long_sides.min() < 34 and 116 < long_sides.max() <= 120
    outs = [
        augment(example, rng, crop_size=(40, 20), base_size=60, scale_range=(1, 1), flip=False)
        for _ in range(300)
    ]
    lefts = {int(out["image"][0, 0, 0]) // 4 for out in outs}
    assert lefts == set(range(41))


def test_half_are_flipped_and_none_without():
    example = smooth_example()
    arguments = dict(crop_size=(40, 60), base_size=60, scale_range=(1, 1))
    rng = np.random.default_rng(0)
    outs = [augment(example, rng, **arguments) for _ in range(200)]
    flipped = [np.array_equal(out["image"], example["image"][:, ::-1]) for out in outs]
    for out, is_flipped in zip(outs, flipped, strict=True):
        step = -1 if is_flipped else 1
        np.testing.assert_array_equal(out["image"], example["image"][:, ::step])
        np.testing.assert_array_equal(out["label"], example["label"][:, ::step])
    assert 70 < sum(flipped) < 130
    for _ in range(20):
        out = augment(example, rng, flip=False, **arguments)
        np.testing.assert_array_equal(out["image"], example["image"])


@pytest.mark.parametrize(
    ("option", "share"), [({"color_jitter": 0.5}, (0.95, 1.0)), ({"blur": 3.0}, (0.3, 0.7))]
)
def test_photometric_options_change_the_image_alone(option, share):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    example = smooth_example() | {"image": noise}
    arguments = dict(crop_size=(50, 70), base_size=60, scale_range=(0.8, 1.2))
    changed = 0
    for seed in range(60):
        plain = augment(example, np.random.default_rng(seed), **arguments)
        out = augment(example, np.random.default_rng(seed), **arguments, **option)
        np.testing.assert_array_equal(out["label"], plain["label"])
        np.testing.assert_array_equal(out["extent"], plain["extent"])
        height, width = out["extent"]
        assert (out["image"][height:] == PAD_COLOR).all()
        assert (out["image"][:, width:] == PAD_COLOR).all()
        changed += not np.array_equal(out["image"], plain["image"])
    assert share[0] <= changed / 60 <= share[1]


def test_photometric_of_strength_zero_is_the_image_up_to_hsv_rounding():
    image = smooth_example()["image"]
    out = np.asarray(photometric(Image.fromarray(image), np.random.default_rng(0), 0.0))
    assert abs(out.astype(int) - image).max() <= 6


def test_same_generator_same_result():
    arguments = dict(crop_size=(32, 32), base_size=60, color_jitter=0.5, blur=2.0)
    one, two = (augment(smooth_example(), np.random.default_rng(5), **arguments) for _ in range(2))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


# ---- Crops that one class fills


def blobs(seed, ignored=0.2):
    """A label (30, 40) whose left half is of one class, with blocks of others, and of 255, in it."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 1, 2, 255], (6, 8), p=[0.8 - ignored, 0.1, 0.1, ignored])
    blocks[:, :4] = np.where(rng.random((6, 4)) < 0.9, 0, blocks[:, :4])
    return blocks.astype(np.uint8).repeat(5, axis=0).repeat(5, axis=1)


def mmsegmentation_crop(label, crop_size, rng, ratio):
    """The published procedure, of a scaled label: the corner of the crop, and how often it was drawn."""

    def draw():
        margins = [max(length - crop, 0) for length, crop in zip(label.shape, crop_size, strict=True)]
        return [int(rng.integers(margin + 1)) for margin in margins]

    top, left = draw()
    for looked in range(10):
        crop = label[top : top + crop_size[0], left : left + crop_size[1]]
        classes, counts = np.unique(crop, return_counts=True)
        counts = counts[classes != 255]
        if len(counts) > 1 and np.max(counts) / np.sum(counts) < ratio:
            return (top, left), looked + 1
        top, left = draw()
    return (top, left), 11


@pytest.mark.parametrize("size", [(30, 40), (47, 61), (14, 19)])
def test_crops_are_drawn_anew_as_mmsegmentation_does(size):
    drawn = []
    for seed in range(50):
        label = blobs(seed)
        scaled = resize_label(label, size, (0, 0, *size))
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        window, ids = draw_crop(label, size, (10, 14), rngs[0], 0.7)
        (top, left), count = mmsegmentation_crop(scaled, (10, 14), rngs[1], 0.7)
        assert window == (top, left, 10, 14)
        np.testing.assert_array_equal(ids, scaled[top : top + 10, left : left + 14])
        assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
        drawn.append(count)
    assert {1, 2, 11} <= set(drawn), "the first, a later and the last one are taken"


@pytest.mark.parametrize("label", [np.full((30, 40), 255, np.uint8), np.zeros((30, 40), np.uint8)])
def test_an_image_of_no_or_one_class_is_drawn_ten_times_more(label):
    rngs = [np.random.default_rng(3) for _ in range(2)]
    window, ids = draw_crop(label, (30, 40), (10, 14), rngs[0], 0.7)
    (top, left), count = mmsegmentation_crop(label, (10, 14), rngs[1], 0.7)
    assert window == (top, left, 10, 14) and count == 11
    assert (ids == label[:10, :14]).all()


def test_an_image_that_fits_is_not_looked_at(monkeypatch):
    """There is no other window to draw."""
    looks = []
    monkeypatch.setattr(augment_lib, "is_mixed", lambda *_: looks.append(1))
    window, ids = draw_crop(blobs(0), (30, 40), (64, 64), np.random.default_rng(0), 0.7)
    assert window == (0, 0, 30, 40) and not looks
    np.testing.assert_array_equal(ids, blobs(0))


def test_a_share_is_of_the_valid_pixels_and_lies_below_the_bound():
    ids = np.array([[0, 0, 255], [1, 255, 1]], np.uint8)
    assert is_mixed(ids, 0.51) and not is_mixed(ids, 0.5)
    ids[1] = 255
    assert not is_mixed(ids, 0.99), "one class alone is never enough"


def test_rare_classes_are_seen_more_often_and_image_and_label_stay_together(monkeypatch):
    scaled, resize = [], augment_lib.resize_image
    monkeypatch.setattr(augment_lib, "resize_image", lambda *args: scaled.append(args[2]) or resize(*args))
    arguments = dict(crop_size=(10, 14), base_size=40, scale_range=(1.0, 1.0))
    shares = {1.0: [], 0.7: []}
    for ratio, found in shares.items():
        for seed in range(60):
            label = blobs(seed)
            example = {"image": np.stack([label] * 3, -1), "label": label}
            out = augment(example, np.random.default_rng(seed), cat_max_ratio=ratio, **arguments)
            np.testing.assert_array_equal(out["image"][..., 0], out["label"])
            found.append(np.mean(out["label"] == 0))
    assert np.mean(shares[0.7]) < np.mean(shares[1.0]) - 0.05
    # Of each image the crop alone was scaled, and once.
    assert len(scaled) == 120 and {window[2:] for window in scaled} == {(10, 14)}


def test_without_the_option_nothing_more_is_drawn():
    ours, by_hand = np.random.default_rng(0), np.random.default_rng(0)
    augment(
        {"image": np.zeros((30, 40, 3), np.uint8), "label": blobs(0)}, ours, crop_size=(4, 4), base_size=40
    )
    flip, scale = by_hand.random(), by_hand.uniform(0.5, 2.0)
    assert 0 <= flip < 1
    height, width = round(round(40 * scale) * 30 / 40), round(40 * scale)
    by_hand.integers(height - 4 + 1), by_hand.integers(width - 4 + 1)
    assert ours.bit_generator.state == by_hand.bit_generator.state
