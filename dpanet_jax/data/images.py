"""Image files: the one finder and the one reader, which `prepare`, the pipeline and `predict` share.

PNG and JPEG of 8 bits a channel are read, whatever their suffix says. An EXIF orientation is not applied,
so that an image matches its label.
"""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from dpanet_jax.errors import DPANetError, UsageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
LABEL_SUFFIXES = (".png",)

# Grey, colour and palette, with and without alpha, and CMYK: 8 bits each, so RGB holds them.
_MODES = ("L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "1")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"


class ImageError(DPANetError, ValueError):
    """A file is not an image that can be read; the text names it."""


class NoImages(UsageError, FileNotFoundError):
    """There is no image where one should be."""


def find(source: Path) -> dict[Path, Path]:
    """{path relative to `source`, without suffix: file} of every image below a folder, in order of name.

    A single file gives {its stem: itself}. Hidden files and folders are left out, links are followed.
    Raises NoImages where there is none, and UsageError naming both where two files share a name.
    """
    if source.is_file():
        return {Path(source.stem): source}
    if not source.is_dir():
        raise NoImages(f"{source}: no such file or folder")
    found, problems = files_below(source, IMAGE_SUFFIXES)
    if problems:
        raise UsageError(problems[0])
    if not found:
        raise NoImages(f"{source}: no image in it ({', '.join(IMAGE_SUFFIXES)})")
    return {Path(name): path for name, path in found.items()}


def files_below(folder: Path, suffixes: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """{name: file} of the files below `folder` with one of `suffixes`, in order of name, and what is wrong.

    A name is the path below the folder with forward slashes, without the suffix. Hidden files and folders
    are left out, links are followed. Two files of one name are a problem that names both. Raises OSError
    for a folder that cannot be listed.
    """
    suffixes = tuple(suffixes)
    found: dict[str, Path] = {}
    problems = []
    for directory, subdirectories, names in os.walk(folder, onerror=_fail, followlinks=True):
        subdirectories[:] = [
            name for name in subdirectories if not name.startswith(".") and not _is_loop(directory, name)
        ]
        for file_name in sorted(names):
            path = Path(directory, file_name)
            if file_name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                problems.append(f"{found[name]} and {path}: two files of one name; rename or remove one")
            found[name] = path
    return dict(sorted(found.items())), problems


def _fail(error: OSError) -> None:
    raise error


def _is_loop(directory: str, name: str) -> bool:
    """Whether a link leads to a folder that holds it, and so down again for ever."""
    path = Path(directory, name)
    return path.is_symlink() and Path(directory).resolve().is_relative_to(path.resolve())


def read_image(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) RGB from an image file. Raises ImageError naming it, or OSError."""
    return rgb(decode(path.read_bytes(), path), path)


def decode(encoded: bytes, name: object) -> Image.Image:
    """The pixels of an encoded PNG or JPEG, in the mode that they were stored in.

    Raises ImageError, which begins with `name`, where they cannot be read.
    """
    # Pillow's own `open` warns of large images and of odd metadata, and a warning can be silenced only for
    # all threads at once. So the format is told apart here, and what would warn is not reached.
    if encoded.startswith(_PNG_START):
        reader: type[PngImageFile | JpegImageFile] = PngImageFile
    elif encoded.startswith(_JPEG_START):
        reader = _Jpeg
    else:
        raise ImageError(f"{name}: not a PNG or JPEG image")
    try:
        image = reader(io.BytesIO(encoded))
    except SyntaxError as error:  # Pillow's word for a header that makes no sense.
        raise ImageError(f"{name}: not a PNG or JPEG image") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: unreadable ({error})") from error
    most = Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS
    if most and image.width * image.height > most:
        raise ImageError(
            f"{name}: unreadable ({image.width}x{image.height} is more than {most} pixels, Pillow's limit)"
        )
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{name}: unreadable ({error})") from error
    return image


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nothing here needs the resolution, and reading it warns where a camera wrote odd EXIF."""


def rgb(image: Image.Image, name: object) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a decoded image; alpha is dropped. Raises ImageError as `require_8_bits`."""
    require_8_bits(image, name)
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns where such a palette goes to RGB in one step.
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def require_8_bits(image: Image.Image, name: object) -> None:
    """Raises ImageError, which begins with `name`, where 8-bit RGB cannot hold the pixels."""
    if image.mode not in _MODES:
        raise ImageError(f"{name}: pixels of kind {image.mode}; save it as 8-bit RGB")
