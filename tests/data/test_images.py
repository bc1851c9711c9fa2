"""The one finder and the one reader of image files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data import images
from dpanet_jax.errors import DPANetError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_folder_gives_every_image_by_its_relative_name(tmp_path):
    touch(*(tmp_path / name for name in ("b.PNG", "a/c.v1.jpeg", "a/b.jpg", "notes.txt", "d.webp")))
    touch(tmp_path / ".hidden.png", tmp_path / ".thumbs/x.png")
    found = images.find(tmp_path)
    assert found == {
        Path("a/b"): tmp_path / "a/b.jpg",
        Path("a/c.v1"): tmp_path / "a/c.v1.jpeg",
        Path("b"): tmp_path / "b.PNG",
    }
    assert list(found) == [Path("a/b"), Path("a/c.v1"), Path("b")]


def test_a_file_is_found_by_its_stem(tmp_path):
    touch(tmp_path / "photo.v2.jpg")
    assert images.find(tmp_path / "photo.v2.jpg") == {Path("photo.v2"): tmp_path / "photo.v2.jpg"}


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "elsewhere/x.png", tmp_path / "in/deep/y.png")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/deep/up").symlink_to(tmp_path / "in")
    assert list(images.find(tmp_path / "in")) == [Path("deep/y"), Path("link/x")]


def test_two_files_of_one_name(tmp_path):
    touch(tmp_path / "x/a.jpg", tmp_path / "x/a.png")
    with pytest.raises(DPANetError, match="x/a.jpg and .*x/a.png: two files of one name"):
        images.find(tmp_path)


def test_nothing_to_find(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(images.NoImages, match=r"no image in it \(\.png, \.jpg, \.jpeg\)") as error:
        images.find(tmp_path)
    assert isinstance(error.value, DPANetError) and isinstance(error.value, FileNotFoundError)
    with pytest.raises(images.NoImages, match="nowhere: no such file or folder"):
        images.find(tmp_path / "nowhere")


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


def test_an_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # A quarter turn.
    Image.fromarray(COLORS).save(tmp_path / "x.jpg", exif=exif)
    assert images.read_image(tmp_path / "x.jpg").shape == (9, 7, 3)


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
    return "not a PNG or JPEG image"


def other_format(path):
    Image.fromarray(COLORS).save(path, format="BMP")
    return "not a PNG or JPEG image"


def header_alone(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    return "not a PNG or JPEG image|unreadable"


def cut_png(path):
    Image.fromarray(COLORS).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    return "unreadable"


def cut_jpeg(path):
    Image.fromarray(COLORS).resize((64, 64)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-60])
    return "unreadable"


def deep(path):
    Image.new("I;16", (4, 4)).save(path)
    return "pixels of kind I;16; save it as 8-bit RGB"


@pytest.mark.parametrize("make", [text, other_format, header_alone, cut_png, cut_jpeg, deep])
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, make):
    path = tmp_path / "x.png"
    message = make(path)
    with pytest.raises(images.ImageError, match=message) as error:
        images.read_image(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert isinstance(error.value, DPANetError) and isinstance(error.value, ValueError)


@pytest.mark.parametrize("module", ["images", "classes", "listing", "datasets", "options"])
def test_what_inference_needs_loads_neither_tfds_nor_grain_nor_jax(module, pytestconfig):
    code = (
        f"import sys, dpanet_jax.data.{module}\n"
        "print([n for n in ('jax', 'grain', 'tensorflow', 'tensorflow_datasets') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
