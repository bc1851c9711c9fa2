"""Label files of every kind that keeps its pixels, and what is said of the others."""

import io

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data import images, labels
from dpanet_jax.data.classes import Classes
from dpanet_jax.data.labels import LabelProblem, Meaning

# Ids 0, 1, 3, 7 and 200 are classes; 9 and 255 are ignored.
IDS = (0, 1, 3, 7, 200)
COLORS = [(0, 0, 0), (10, 20, 30), (40, 50, 60), (70, 80, 90), (255, 255, 255)]
CLASSES = Classes.from_ids([f"class {i}" for i in IDS], COLORS, IDS, [9])
MEANING = Meaning(
    CLASSES, {c: [i] for c, i in zip(COLORS, IDS, strict=True)} | {(1, 1, 1): [9]}, "classes.csv"
)
LABEL = np.random.default_rng(0).choice([0, 1, 3, 7], (6, 8)).astype(np.uint8)


def read(image, form="PNG", meaning=MEANING, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return labels.raw_ids(images.decode(out.getvalue(), "x"), out.getvalue(), meaning)


def palette(ids, colors):
    image = Image.frombytes("P", ids.shape[::-1], ids.tobytes())
    image.putpalette(np.array(colors, np.uint8).tobytes())
    return image


def painted(ids):
    table = np.zeros((256, 3), np.uint8)
    table[list(IDS)] = COLORS
    return table[ids]


RANDOM = np.random.default_rng(1).integers(0, 256, (256, 3))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(LABEL),
        palette(LABEL, RANDOM),
        Image.fromarray(painted(LABEL)),
        Image.fromarray(painted(LABEL)).convert("RGBA"),
        Image.fromarray(np.repeat(LABEL[..., None], 3, -1)),
    ],
    ids=["grey", "palette", "colours", "opaque colours", "ids in three channels"],
)
def test_ids(form, image):
    np.testing.assert_array_equal(read(image, form), LABEL)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_ids_of_16_bits(form):
    np.testing.assert_array_equal(read(Image.fromarray(LABEL.astype(np.uint16)), form), LABEL)
    with pytest.raises(LabelProblem, match="label id 256; ids are 0 to 255"):
        read(Image.fromarray(np.full((2, 2), 256, np.uint16)), form)


def test_ids_of_32_bits_and_one_below_zero():
    np.testing.assert_array_equal(read(Image.fromarray(LABEL.astype(np.int32)), "TIFF"), LABEL)
    with pytest.raises(LabelProblem, match="label id -9999; ids are 0 to 255"):
        read(Image.fromarray(np.full((2, 2), -9999, np.int32)), "TIFF")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_stretched(bits):
    """Pillow makes 0..255 of it."""
    import struct
    import zlib

    ids = (LABEL & 1) if bits == 1 else LABEL if bits == 4 else np.minimum(LABEL, 3)
    packed = np.packbits(np.unpackbits(ids[..., None], axis=-1)[..., -bits:].reshape(len(ids), -1), axis=-1)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], bits, 0, 0, 0, 0)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    encoded = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw))
    encoded += chunk(b"IEND", b"")
    np.testing.assert_array_equal(labels.raw_ids(images.decode(encoded, "x"), encoded, MEANING), ids)
    assert not labels.is_stored_as_it_is(images.decode(encoded, "x"), encoded)


def test_a_palette_in_the_classes_colours_whose_indices_are_no_ids():
    indices = np.array([[50, 51, 52]], np.uint8)
    colors = np.zeros((256, 3))
    colors[[50, 51, 52]] = [COLORS[3], COLORS[1], (1, 1, 1)]
    assert read(palette(indices, colors)).tolist() == [[7, 1, 9]]


def test_a_palette_that_contradicts_the_classes():
    """A program that counts colours as it meets them: index 0 is the first of them, whatever its id."""
    with pytest.raises(LabelProblem, match="palette index 0 has the colour of id 3 in classes.csv"):
        read(palette(np.array([[0, 1]], np.uint8), [COLORS[2], COLORS[1]]))


def test_a_colour_of_two_classes():
    meaning = Meaning(CLASSES, {(5, 6, 7): [0, 1]}, "classes.csv")
    with pytest.raises(LabelProblem, match=r"colour \(5, 6, 7\) is that of the ids 0, 1 in classes.csv"):
        read(Image.new("RGB", (2, 2), (5, 6, 7)), meaning=meaning)


def test_colours_in_the_order_of_opencv():
    with pytest.raises(LabelProblem, match=r"\(10, 20, 30\) is: the file was written in the order BGR"):
        read(Image.new("RGB", (2, 2), (30, 20, 10)))


def test_smoothed_colours():
    rng = np.random.default_rng(0)
    with pytest.raises(LabelProblem, match="more are not in classes.csv.*made by smoothing") as problem:
        read(Image.fromarray(rng.integers(100, 200, (9, 9, 3)).astype(np.uint8)))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("image", "form", "options", "words"),
    [
        (Image.fromarray(LABEL), "JPEG", {}, "a JPEG file; labels must be PNG, BMP or TIFF"),
        (Image.fromarray(LABEL), "WEBP", {"lossless": True}, "a WEBP file; labels must be PNG"),
        (Image.fromarray(painted(LABEL)), "TIFF", {"compression": "jpeg"}, "jpeg compression, which changes"),
        (Image.fromarray(LABEL.astype(np.float32)), "TIFF", {}, "pixels of kind F; a label holds whole"),
        (Image.new("RGBA", (3, 3), (0, 0, 0, 128)), "PNG", {}, "some pixels are transparent"),
        (Image.fromarray(LABEL), "TIFF", {"tiffinfo": {262: 0}}, "count from white"),
        (Image.new("L", (3, 3), 8), "PNG", {}, "label id 8 is not one of the 5 classes or ignored; a row"),
    ],
)
def test_what_is_no_label(image, form, options, words):
    with pytest.raises(LabelProblem, match=words) as problem:
        read(image, form, **options)
    assert "\n" not in str(problem.value)


def test_what_is_stored_as_it_is():
    def as_is(image, form):
        out = io.BytesIO()
        image.save(out, form)
        return labels.is_stored_as_it_is(images.decode(out.getvalue(), "x"), out.getvalue())

    assert as_is(Image.fromarray(LABEL), "PNG")
    assert not as_is(Image.fromarray(LABEL), "BMP")
    assert not as_is(palette(LABEL, RANDOM), "PNG")
    assert not as_is(Image.fromarray(LABEL > 0), "PNG")
