"""Label files: from what a file holds, grey, a palette or colours, to the ids of the classes file.

A file keeps its pixels exactly, so PNG, BMP and TIFF without lossy compression are read.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from dpanet_jax.data.classes import IGNORE_LABEL, Classes
from dpanet_jax.data.images import DEEP_MODES
from dpanet_jax.errors import DPANetError

_FORMATS = ("PNG", "BMP", "TIFF")
_PNG_BIT_DEPTH_BYTE = 24
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_LOSSY = ("jpeg", "tiff_jpeg", "webp", "lerc", "lerc_deflate", "lerc_zstd")
# Values of `Meaning.ids_of_colors` that are no id.
_NO_CLASS, _SEVERAL = 256, 257
# What anti-aliasing makes of a few colours.
_MANY = 8

Color = tuple[int, int, int]


class LabelProblem(DPANetError, ValueError):
    """What is wrong with the pixels of a label file, without the file's name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Meaning:
    """What the pixels of a label file may be: ids, or the colours of the classes file.

    colors: {colour: the ids that have it}; {}: a colour says nothing. file_name: the classes file's, for
    messages; empty where no file says what the classes are. table: (256,) uint8, the id that each train id
    becomes, where the files hold train ids; None: they hold ids.
    """

    classes: Classes
    colors: Mapping[Color, Sequence[int]]
    file_name: str = ""
    table: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        classes: Classes,
        colors: Mapping[Color, Sequence[int]] | None = None,
        file_name: str = "",
        table: np.ndarray | None = None,
    ) -> "Meaning":
        """The meaning of these classes; without `colors` those are the classes' own."""
        if colors is None:
            own: dict[Color, list[int]] = {}
            for (red, green, blue), raw_id in zip(classes.colors.tolist(), classes.raw_ids, strict=True):
                own.setdefault((red, green, blue), []).append(int(raw_id))
            colors = own
        return cls(classes, colors, file_name, table)

    @functools.cached_property
    def known(self) -> np.ndarray:
        """(256,) bool: the values that a label file may hold."""
        if self.table is None:
            return self.classes.known
        train_ids = np.arange(256)
        return (train_ids < len(self.classes)) | (train_ids == IGNORE_LABEL)

    @functools.cached_property
    def ids_of_colors(self) -> np.ndarray:
        """(2**24,) uint16: the id that a packed colour means, _NO_CLASS or _SEVERAL."""
        table = np.full(2**24, _NO_CLASS, np.uint16)
        for (red, green, blue), ids in self.colors.items():
            table[red << 16 | green << 8 | blue] = ids[0] if len(ids) == 1 else _SEVERAL
        return table

    @property
    def where(self) -> str:
        """Where the classes and their colours are said."""
        return self.file_name or "the data set's classes"


def raw_ids(label: Image.Image, encoded: bytes, meaning: Meaning) -> np.ndarray:
    """uint8 (H, W) ids, each of them known to the classes, of a label image and the file it came from.

    Grey values and palette indices are ids. RGB pixels are the colours of the classes file, and so is a
    palette whose indices are no ids. Raises LabelProblem.
    """
    ids = _ids_of_file(label, encoded, meaning)
    return ids if meaning.table is None else meaning.table[ids]


def _ids_of_file(label: Image.Image, encoded: bytes, meaning: Meaning) -> np.ndarray:
    _require_lossless(label)
    mode = label.mode
    if mode in ("RGBA", "LA", "PA") and np.asarray(label.getchannel("A")).min(initial=255) < 255:
        raise LabelProblem("some pixels are transparent; a label says of every pixel what it is")
    if mode in ("RGB", "RGBA", "RGBX"):
        return _of_colors(np.asarray(label.convert("RGB")), meaning)
    if mode == "P":
        return _of_palette(label, meaning)
    return _known(_grey(label, encoded), meaning)


def is_stored_as_it_is(label: Image.Image, encoded: bytes) -> bool:
    """Whether a label file is what is stored: a PNG whose 8-bit grey values are the ids."""
    return label.format == "PNG" and label.mode == "L" and encoded[_PNG_BIT_DEPTH_BYTE] == 8


def _require_lossless(label: Image.Image) -> None:
    if label.format not in _FORMATS:
        raise LabelProblem(
            f"a {label.format} file; labels must be PNG, BMP or TIFF, which keep every pixel as it was: "
            "write them again from where they were drawn"
        )
    if label.format == "TIFF" and label.info.get("compression") in _LOSSY:
        raise LabelProblem(
            f"TIFF with {label.info['compression']} compression, which changes ids; save it with LZW"
        )
    if isinstance(label, TiffImageFile) and label.mode in ("1", "L"):
        if label.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            raise LabelProblem("TIFF whose greys count from white (WhiteIsZero); save it as PNG")


def _grey(label: Image.Image, encoded: bytes) -> np.ndarray:
    if label.mode == "1":
        return np.asarray(label).astype(np.uint8)
    if label.mode == "LA":
        label = label.getchannel("L")
    if label.mode == "L":
        # Pillow stretches grey of 2 and 4 bits to 0..255.
        bits = encoded[_PNG_BIT_DEPTH_BYTE] if label.format == "PNG" else 8
        if isinstance(label, TiffImageFile):
            bits = int(np.ravel(label.tag_v2.get(_BITS_PER_SAMPLE, 8))[0])
        return np.asarray(label) // {2: 85, 4: 17}.get(bits, 1)
    if label.mode in (*DEEP_MODES, "I"):
        deep = np.asarray(label)
        wrong = deep[(deep < 0) | (deep > 255)]
        if wrong.size:
            raise LabelProblem(
                f"label id {wrong[0]}; ids are 0 to 255, and 255 is for pixels without a class"
            )
        return deep.astype(np.uint8)
    raise LabelProblem(
        f"pixels of kind {label.mode}; a label holds whole numbers, the ids of the classes, or their colours"
    )


def _known(ids: np.ndarray, meaning: Meaning) -> np.ndarray:
    unknown = unknown_ids(ids, meaning)
    if unknown.size:
        raise LabelProblem(_of_unknown_ids(unknown, meaning))
    return ids


def unknown_ids(ids: np.ndarray, meaning: Meaning) -> np.ndarray:
    """The ids in `ids`, each once, that the classes do not know."""
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    return present[~meaning.known[present]]


def _of_unknown_ids(unknown: np.ndarray, meaning: Meaning) -> str:
    listed = ", ".join(map(str, unknown[:_MANY])) + ", …" * (unknown.size > _MANY)
    problem = f"label id {listed} is not one of the {len(meaning.classes)} classes or ignored"
    if meaning.file_name:
        problem += f"; a row named ignore in {meaning.file_name} leaves an id out"
    return problem


def _of_colors(pixels: np.ndarray, meaning: Meaning) -> np.ndarray:
    packed = pixels[..., 0].astype(np.uint32) << 16
    packed |= pixels[..., 1].astype(np.uint32) << 8
    packed |= pixels[..., 2]
    ids = meaning.ids_of_colors[packed]
    if ids.max(initial=0) < _NO_CLASS:
        return ids.astype(np.uint8)
    if (pixels == pixels[..., :1]).all() and not unknown_ids(pixels[..., 0], meaning).size:
        return pixels[..., 0].copy()  # Ids, written into all three channels.
    if not meaning.colors:
        raise LabelProblem("a picture in colours; the labels of this data set hold ids, in grey or a palette")
    colors = np.unique(packed[ids >= _NO_CLASS])
    red, green, blue = (int(colors[0]) >> shift & 255 for shift in (16, 8, 0))
    if meaning.ids_of_colors[colors[0]] == _SEVERAL:
        several = ", ".join(map(str, meaning.colors[red, green, blue]))
        raise LabelProblem(
            f"colour ({red}, {green}, {blue}) is that of the ids {several} in {meaning.where}; give "
            "each its own"
        )
    more = f" and {len(colors) - 1} more are" if len(colors) > 1 else " is"
    problem = (
        f"colour ({red}, {green}, {blue}){more} not in {meaning.where}; a label holds ids in grey, or the "
        "very colours of the classes"
    )
    if (blue, green, red) in meaning.colors:
        problem += f". ({blue}, {green}, {red}) is: the file was written in the order BGR"
    if len(colors) > _MANY:
        problem += ". So many are made by smoothing or lossy compression: write the label without"
    raise LabelProblem(problem)


def _of_palette(label: Image.Image, meaning: Meaning) -> np.ndarray:
    # The indices, where a conversion would give colours.
    indices = np.frombuffer(label.tobytes(), np.uint8).reshape(label.height, label.width)
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    palette = label.getpalette("RGB") or []
    colors = np.zeros((256, 3), np.int64)
    colors[: len(palette) // 3] = np.reshape(palette, (-1, 3))
    meant = [meaning.colors.get((int(r), int(g), int(b)), ()) for r, g, b in colors[used]]
    has_unknown = unknown_ids(indices, meaning).size > 0
    # All the colours are the classes': then the indices may be any that a program came upon.
    if all(len(ids) == 1 for ids in meant):
        if has_unknown and not meaning.known[used].any():
            of_color = np.zeros(256, np.uint8)
            of_color[used] = [ids[0] for ids in meant]
            return of_color[indices]
        differs = [(index, ids[0]) for index, ids in zip(used, meant, strict=True) if index != ids[0]]
        if differs:
            index, by_color = differs[0]
            raise LabelProblem(
                f"palette index {index} has the colour of id {by_color} in {meaning.where}: whether the "
                "index or the colour is meant cannot be told; save it as grey ids, or as RGB in the colours"
            )
    return _known(indices, meaning)
