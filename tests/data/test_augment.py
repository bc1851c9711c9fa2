import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data.augment import PAD_COLOR, photometric, resize_image, resize_label
from dpanet_jax.data.augment import augment as augment_by
from dpanet_jax.data.options import Augmentation


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
