"""The one reader of image files."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from dpanet_jax.data import images
from dpanet_jax.errors import DPANetError

COLORS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P"])
def test_png_of_every_mode_is_read_as_rgb(tmp_path, mode):
    image = Image.fromarray(COLORS).convert(mode)
    image.save(tmp_path / "x.png")
    read = images.read_image(tmp_path / "x.png")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_keeps_its_colours(tmp_path):
    image = Image.fromarray(COLORS).quantize(8)
    image.save(tmp_path / "x.png", transparency=bytes(range(0, 256, 32)))
    np.testing.assert_array_equal(images.read_image(tmp_path / "x.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg(tmp_path, mode):
    Image.fromarray(COLORS).convert(mode).save(tmp_path / "x.jpg")
    with Image.open(tmp_path / "x.jpg") as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(images.read_image(tmp_path / "x.jpg"), expected)


def flip(pixels, orientation):
    """What EXIF 2.32 says of each orientation, by hand: where the stored row 0 and column 0 lie."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[:, ::-1],
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: pixels.transpose(1, 0, 2)[::-1],
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_orientation_is_applied(tmp_path, form, orientation):
    """As Pillow's own function does too, which is written apart from this."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x"
    Image.fromarray(COLORS).save(path, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    read = images.read_image(path)
    np.testing.assert_array_equal(read, expected)
    if form != "JPEG":
        np.testing.assert_array_equal(read, flip(COLORS, orientation))
    if form != "WEBP":
        assert images.read_size(path) == read.shape[:2]


def test_big_endian_exif_and_exif_cut_short(tmp_path):
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 8, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry
    Image.fromarray(COLORS).save(tmp_path / "x.jpg", exif=exif + bytes(4))
    assert images.read_image(tmp_path / "x.jpg").shape == (7, 9, 3)
    Image.fromarray(COLORS).save(tmp_path / "x.jpg", exif=exif[:-6])
    assert images.read_image(tmp_path / "x.jpg").shape == (9, 7, 3)


@pytest.mark.parametrize("form", ["BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_other_formats(tmp_path, form, mode):
    if form == "WEBP" and mode in ("P", "1"):
        pytest.skip("WebP has no such mode")
    image = Image.fromarray(COLORS).convert(mode)
    image.save(tmp_path / "x", form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(images.read_image(tmp_path / "x"), np.asarray(image.convert("RGB")))


DEEP = np.array([[0, 255, 256, 40000, 65535]], np.uint16)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_never_clipped(tmp_path, form):
    Image.fromarray(DEEP).save(tmp_path / "x", form)
    read = images.read_image(tmp_path / "x")
    assert read[0, :, 0].tolist() == [0, 0, 1, 156, 255] and (read == read[..., :1]).all()


def deep_png(path, channels, color_type):
    """Pillow does not write 16 bits a channel, so the file is put together here."""
    height, width = DEEP.shape
    rows = np.repeat(DEEP[..., None], channels, -1).astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(("channels", "color_type"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_16_bit_png_of_every_kind(tmp_path, channels, color_type):
    deep_png(tmp_path / "x.png", channels, color_type)
    assert images.read_image(tmp_path / "x.png")[0, :, 0].tolist() == [0, 0, 1, 156, 255]


def channels_tiff(path, pixels, extra=()):
    """An uncompressed TIFF of any number of channels, which Pillow does not write."""
    height, width, channels = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    photometric = 2 if channels >= 3 else 1
    tags = [(256, [width]), (257, [height]), (258, [8 * pixels.itemsize] * channels), (259, [1])]
    tags += [(262, [photometric]), (273, None), (277, [channels]), (278, [height]), (279, [len(data)])]
    tags += [(338, list(extra))] * bool(extra)
    after = 8 + 2 + 12 * len(tags) + 4
    long = b"".join(struct.pack(f"<{len(v)}H", *v) for _, v in tags if v and len(v) > 2)
    entries, at = b"", after
    for tag, values in tags:
        values = [after + len(long)] if values is None else values
        raw = struct.pack(f"<{len(values)}H", *values)
        if len(raw) > 4:
            at, raw = at + len(raw), struct.pack("<I", at)
        entries += struct.pack("<HHI", tag, 3, len(values)) + raw.ljust(4, b"\0")
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + long + data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("channels", "extra"), [(1, ()), (2, (0,)), (3, ()), (4, (0,)), (4, (2,)), (5, (0, 0))]
)
def test_tiff_of_several_channels(tmp_path, dtype, channels, extra):
    """The first three are read, of 16 bits the upper eight; the others are known to be left out."""
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (4, 5, channels)).astype(dtype)
    channels_tiff(tmp_path / "x.tif", pixels, extra)
    expected = pixels[..., :3] if channels >= 3 else np.repeat(pixels[..., :1], 3, -1)
    shift = 8 * (dtype().itemsize - 1)
    try:
        read = images.read_image(tmp_path / "x.tif")
    except images.ImageError as error:
        assert "\n" not in str(error) and (channels, dtype) in [(2, np.uint16), (5, np.uint16)]
        return
    np.testing.assert_array_equal(read, expected >> shift)
    decoded = images.decode((tmp_path / "x.tif").read_bytes(), "x")
    assert images.has_channels_left_out(decoded) == (0 in extra)


def test_what_has_several_pictures_is_refused_but_not_a_pyramid(tmp_path):
    picture = Image.fromarray(COLORS)
    picture.save(tmp_path / "x.tif", save_all=True, append_images=[picture])
    with pytest.raises(images.ImageError, match="x.tif: 2 pages; save one image a file"):
        images.read_image(tmp_path / "x.tif")
    small = Image.fromarray(COLORS[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    picture.save(tmp_path / "x.tif", save_all=True, append_images=[small])
    assert images.read_image(tmp_path / "x.tif").shape == (9, 7, 3)
    picture.save(tmp_path / "x.webp", save_all=True, append_images=[small.resize(picture.size)])
    with pytest.raises(images.ImageError, match="x.webp: an animation of 2 frames"):
        images.read_image(tmp_path / "x.webp")


def test_odd_exif_is_no_obstacle(tmp_path):
    """Pytest makes an error of the warning that Pillow has for it."""
    odd = b"Exif\0\0II*\0\x08\0\0\0" + b"\x05\0\x1a\x01\x05\0\x01\0\0\0\xff\xff\0\0"
    Image.fromarray(COLORS).save(tmp_path / "x.jpg", exif=odd)
    with pytest.warns(UserWarning):
        Image.open(tmp_path / "x.jpg").close()
    assert images.read_image(tmp_path / "x.jpg").shape == (9, 7, 3)


def test_large_images_are_read_and_larger_ones_refused(tmp_path, monkeypatch):
    """Up to twice the size that Pillow warns of, as Pillow does."""
    Image.fromarray(COLORS).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32)
    assert images.read_image(tmp_path / "x.png").shape == (9, 7, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)
    with pytest.raises(images.ImageError, match="x.png: unreadable .*7x9 is more than 62 pixels"):
        images.read_image(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert images.read_image(tmp_path / "x.png").shape == (9, 7, 3)


def text(path):
    path.write_text("not a picture")
    return "not a PNG, JPEG, BMP, TIFF or WebP image"


def other_format(path):
    Image.fromarray(COLORS).save(path, format="GIF")
    return "not a PNG, JPEG, BMP, TIFF or WebP image, but a GIF"


def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    return "a Git LFS pointer and not the file itself; git lfs pull fetches it"


def page(path):
    path.write_text("<!DOCTYPE html><html></html>")
    return "but a text in HTML"


def heic(path):
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    return "but HEIC, AVIF or a video"


def empty(path):
    path.write_bytes(b"")
    return "an empty file"


def pipe(path):
    os.mkfifo(path)
    return "not a file"


def link(path):
    path.symlink_to("nowhere.png")
    return "a link to nothing"


def cut_tiff(path):
    Image.fromarray(COLORS).save(path, format="TIFF", compression="tiff_lzw")
    path.write_bytes(path.read_bytes()[:60])
    return "unreadable|not a PNG"


def cut_bmp(path):
    Image.fromarray(COLORS).save(path, format="BMP")
    path.write_bytes(path.read_bytes()[:80])
    return "unreadable"


def cut_webp(path):
    Image.fromarray(COLORS).save(path, format="WEBP", lossless=True)
    path.write_bytes(path.read_bytes()[:60])
    return "unreadable|not a PNG"


def fractions(path):
    Image.fromarray(COLORS[..., 0].astype(np.float32)).save(path, format="TIFF")
    return "pixels of kind F, fractions"


def header_alone(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    return "not a PNG, JPEG|unreadable"


def cut_png(path):
    Image.fromarray(COLORS).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    return "unreadable"


def cut_jpeg(path):
    Image.fromarray(COLORS).resize((64, 64)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-60])
    return "unreadable"


DAMAGES = [text, other_format, header_alone, cut_png, cut_jpeg, pointer, page, heic, empty, pipe, link]
DAMAGES += [cut_tiff, cut_bmp, cut_webp, fractions]


@pytest.mark.parametrize("make", DAMAGES)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, make):
    path = tmp_path / "x.png"
    message = make(path)
    with pytest.raises(images.ImageError, match=message) as error:
        images.read_image(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert isinstance(error.value, DPANetError) and isinstance(error.value, ValueError)


@pytest.mark.parametrize("module", ["images", "finder", "classes", "listing", "datasets", "options"])
def test_what_inference_needs_loads_neither_tfds_nor_grain_nor_jax(module, pytestconfig):
    code = (
        f"import sys, dpanet_jax.data.{module}\n"
        "print([n for n in ('jax', 'grain', 'tensorflow', 'tensorflow_datasets') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(64, 48), (61, 47), (9, 8), (8, 70)])
def test_a_reduced_jpeg_shows_the_averages_of_its_blocks(size, reduction):
    y, x = np.mgrid[: size[0], : size[1]]
    smooth = np.stack([3 * x, 3 * y, x + y], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=100, subsampling=0)
    found = np.asarray(images.decode(file.getvalue(), "", reduction)).astype(float)
    rows, columns = (-(-length // reduction) for length in size)
    assert found.shape == (rows, columns, 3)
    whole = (size[0] // reduction, size[1] // reduction)
    blocks = smooth[: whole[0] * reduction, : whole[1] * reduction].reshape(
        whole[0], reduction, whole[1], reduction, 3
    )
    # Near the border a block of the file ends with what the encoder repeats.
    assert abs(found[: whole[0], : whole[1]] - blocks.mean((1, 3))).max(initial=0) < 8


def test_other_formats_are_decoded_whole():
    file = io.BytesIO()
    Image.fromarray(COLORS).save(file, "PNG")
    encoded = images.Encoded(file.getvalue(), "colors")
    assert not encoded.is_jpeg
    np.testing.assert_array_equal(encoded.pixels(4), COLORS)
