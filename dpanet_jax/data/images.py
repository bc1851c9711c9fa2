"""Image files: the one reader, which `prepare`, the pipeline and `predict` share.

PNG, JPEG, BMP, TIFF and WebP are read, whatever a file's suffix says. 16-bit values are divided by 256, the
scale that 8 bits have. An EXIF orientation is applied by `upright`, so that an image lies as viewers show it.
"""

import dataclasses
import io
import os
import stat
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dpanet_jax.data.archives import Member
from dpanet_jax.data.finder import says_kind
from dpanet_jax.errors import DPANetError
from dpanet_jax.paths import AnyPath, Remote

FORMATS = "PNG, JPEG, BMP, TIFF or WebP"
# Grey, colour and palette, with and without alpha, and CMYK: 8 bits each, so RGB holds them.
_MODES = ("L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "1")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")

_EXTRA_SAMPLES = 338
# A page of a TIFF that is the same picture, smaller (bit 0), or its mask (bit 2).
_NEW_SUBFILE_TYPE, _NO_PICTURE_OF_ITS_OWN = 254, 1 | 4
# 2 GiB: more than an image of Pillow's limit has in any form.
_MOST_BYTES = 2**31
_JPEG = b"\xff\xd8\xff"
# Bytes of an object that are read for the header.
_HEADER = 2**17

# What a file that is no image often is, by its first bytes.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself; git lfs pull fetches it"),
    (b"GIF8", "a GIF"),
    (b"%PDF", "a PDF"),
    (b"8BPS", "a PSD"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000 image"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"<", "a text in HTML, XML or SVG"),
    (b"{", "a text in JSON"),
)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(DPANetError, ValueError):
    """A file is not an image that can be read; the text names it."""


def read_image(path: AnyPath) -> np.ndarray:
    """uint8 (H, W, 3) RGB from an image file, as viewers show it. Raises ImageError naming it, or OSError."""
    if kind := says_kind(path):
        raise ImageError(f"{path}: {kind}")
    return rgb(upright(decode(read_bytes(path), path)), path)


def read_size(path: AnyPath) -> tuple[int, int] | None:
    """(height, width) of an image file as viewers show it, from its header; None where that tells nothing."""
    try:
        if isinstance(path, Path) and not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with path.open("rb") if isinstance(path, Path) else io.BytesIO(path.read_bytes(_HEADER)) as file:
            start = file.read(16)
            file.seek(0)
            if start.startswith(b"RIFF"):  # Its header can only be read with all the rest.
                return None
            image = _reader(start)(file)
            turned = orientation(image) >= 5
    except Exception:  # Whatever is wrong is said when the file is read.
        return None
    return (image.width, image.height) if turned else (image.height, image.width)


def read_bytes(path: AnyPath | Member) -> bytes:
    """A file's content. Raises ImageError for what is no file, is empty or too large; or OSError."""
    if isinstance(path, Remote):
        return _read_object(path)
    if isinstance(path, Member):
        encoded = path.read_bytes()
        _require_size(path, len(encoded))
        return encoded
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        link = "a link to nothing" if path.is_symlink() else "no such file"
        raise ImageError(f"{path}: {link}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path}: not a file" + " but a folder" * stat.S_ISDIR(status.st_mode))
    _require_size(path, status.st_size)
    return path.read_bytes()


def _read_object(path: Remote) -> bytes:
    try:
        _require_size(path, path.size())
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error


def _require_size(path: AnyPath | Member, size: int) -> None:
    if size > _MOST_BYTES:
        raise ImageError(f"{path}: {size} bytes, of at most {_MOST_BYTES}; cut it into tiles")
    if not size:
        raise ImageError(f"{path}: an empty file")


def decode(encoded: bytes, name: object, reduction: int = 1) -> Image.Image:
    """The pixels of an encoded image, in the mode that they were stored in.

    reduction: 1, 2, 4 or 8, at most the height H and the width W. A JPEG is decoded to ⌈H/reduction⌉ by
    ⌈W/reduction⌉ in a part of the time. Other formats are decoded whole. Raises ImageError, which begins with
    `name`, where the pixels cannot be read.
    """
    try:
        image = _reader(encoded[:16])(io.BytesIO(encoded))
    except _NotRead as error:
        raise ImageError(f"{name}: not a {FORMATS} image{_what_it_is(encoded)}") from error
    except Exception as error:  # A damaged file makes Pillow raise errors of any type.
        raise ImageError(f"{name}: unreadable ({_words(error)})") from error
    most = Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS
    if most and image.width * image.height > most:
        raise ImageError(
            f"{name}: unreadable ({image.width}x{image.height} is more than {most} pixels, Pillow's limit);"
            " cut it into tiles"
        )
    try:
        _require_one_picture(image, name)
        if reduction > 1:
            image.draft(None, (image.width // reduction, image.height // reduction))
        image.load()
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: unreadable ({_words(error)})") from error
    return image


@dataclasses.dataclass(frozen=True)
class Encoded:
    """An image file's content, for who decodes it when its scale is known."""

    content: bytes
    name: str

    @property
    def is_jpeg(self) -> bool:
        """Whether `pixels` can reduce it."""
        return self.content.startswith(_JPEG)

    def pixels(self, reduction: int = 1) -> np.ndarray:
        """uint8 (H, W, 3) RGB, reduced as by `decode`. Raises ImageError."""
        return rgb(decode(self.content, self.name, reduction), self.name)


class _NotRead(DPANetError, SyntaxError):
    """The first bytes are of no format that is read."""


# Pillow's own `open` warns of large images and of odd metadata, and a warning can be silenced only for all
# threads at once. So the format is told apart here, and what would warn is not reached.
def _reader(start: bytes) -> type[ImageFile]:
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if start.startswith(_JPEG):
        return _Jpeg
    if start.startswith(b"BM"):
        return BmpImageFile
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _Tiff
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return WebPImageFile
    raise _NotRead


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nothing here needs the resolution, and reading it warns where a camera wrote odd EXIF."""


class _Tiff(TiffImageFile):
    def load_prepare(self) -> None:
        """Makes room for the pixels, whose number has been checked: Pillow's own check warns."""
        if self._im is None:
            self.im = Image.new(self.mode, getattr(self, "_tile_size", self.size)).im
        super().load_prepare()


def _what_it_is(encoded: bytes) -> str:
    if encoded[4:8] == b"ftyp":
        return ", but HEIC, AVIF or a video"
    begins = encoded[:64].lstrip(b"\xef\xbb\xbf \r\n\t")
    return next((f", but {words}" for start, words in _OTHERS if begins.startswith(start)), "")


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _require_one_picture(image: ImageFile, name: object) -> None:
    """Raises ImageError for an animation or a file of several pages, of which one would be taken silently."""
    if isinstance(image, WebPImageFile) and getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"{name}: an animation of {image.n_frames} frames; save one image a file")
    if isinstance(image, TiffImageFile) and image.is_animated:
        for page in range(1, image.n_frames):
            image.seek(page)
            if not int(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & _NO_PICTURE_OF_ITS_OWN:
                raise ImageError(f"{name}: {image.n_frames} pages; save one image a file")
        image.seek(0)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image that `decode` returned: 1 to 8, of which 1 is as it is stored."""
    # Pillow applies a TIFF's as it reads. Its reader of EXIF warns of what cameras write, so it is not used.
    if image.format == "TIFF":
        return 1
    exif = image.info.get("exif")
    value = _orientation_tag(exif.removeprefix(b"Exif\0\0")) if isinstance(exif, bytes) else 1
    return value if value in _TRANSPOSE else 1


def _orientation_tag(exif: bytes) -> int:
    """The tag 0x0112 of the first directory of EXIF data (a TIFF header and entries of 12 bytes), or 1."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(count):
            tag, kind = struct.unpack_from(order + "HH", exif, start + 2 + 12 * entry)
            if tag == 0x0112:
                form = {1: "B", 3: "H", 4: "I"}.get(kind)
                return struct.unpack_from(order + form, exif, start + 10 + 12 * entry)[0] if form else 1
    except struct.error:  # Cut short, as some cameras and editors leave it.
        pass
    return 1


def upright(image: Image.Image) -> Image.Image:
    """The image as viewers show it: its EXIF orientation is applied."""
    turn = _TRANSPOSE.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def rgb(image: Image.Image, name: object) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a decoded image; alpha is dropped. Raises ImageError as `require_readable`."""
    require_readable(image, name)
    if image.mode in DEEP_MODES:
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns where such a palette goes to RGB in one step.
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def require_readable(image: Image.Image, name: object) -> None:
    """Raises ImageError, which begins with `name`, for pixels without a scale: 32 bits, or fractions."""
    if image.mode not in (*_MODES, *DEEP_MODES):
        kind = {"F": "fractions (float)", "I": "whole numbers of 32 bits or with a sign"}
        raise ImageError(
            f"{name}: pixels of kind {image.mode}, {kind.get(image.mode, 'which has no RGB')}; "
            "save it as RGB or grey of 8 or 16 bits"
        )


def has_channels_left_out(image: Image.Image) -> bool:
    """Whether a TIFF has channels beside grey or RGB that are not said to be alpha: they are not read."""
    return isinstance(image, TiffImageFile) and 0 in image.tag_v2.get(_EXTRA_SAMPLES, ())


def is_plain(image: Image.Image) -> bool:
    """Whether the file that `image` was decoded from is a PNG or JPEG of 8 bits that needs no turning."""
    return image.format in ("PNG", "JPEG") and image.mode in _MODES and orientation(image) == 1


def png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 (H, W, 3) or (H, W)."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", compress_level=1)
    return out.getvalue()
