"""Image and label files below a folder: the one finder, which `prepare` and `predict` share."""

import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

from dpanet_jax.errors import UsageError
from dpanet_jax.paths import AnyPath, Remote

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# What keeps every pixel as it was written.
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm")

# Pictures that are not read. One of these is named, where any other file is none of our business.
UNREAD_SUFFIXES = {
    ".gif": "GIF",
    ".heic": "HEIC",
    ".heif": "HEIF",
    ".avif": "AVIF",
    ".jp2": "JPEG 2000",
    ".j2k": "JPEG 2000",
    ".jxl": "JPEG XL",
    ".jfif": "JFIF",
    ".ppm": "PPM",
    ".pgm": "PGM",
    ".pnm": "PNM",
    ".tga": "TGA",
    ".psd": "PSD",
    ".svg": "SVG",
    ".exr": "EXR",
    ".dng": "DNG",
    ".nef": "NEF",
    ".cr2": "CR2",
    ".cr3": "CR3",
    ".arw": "ARW",
    ".ecw": "ECW",
    ".dcm": "DICOM",
}


class NoImages(UsageError, FileNotFoundError):
    """There is no image where one should be."""


def find(source: AnyPath, leave_out: Collection[AnyPath] = ()) -> dict[Path, AnyPath]:
    """{path relative to `source`, without suffix: file} of what `predict` is to read, in order of name.

    Images, videos, and pictures of kinds that are not read, whose reader says so. A single file gives {its
    stem: itself}. Hidden files and folders are left out, and so is what lies in the folders of `leave_out`;
    links are followed. Raises NoImages where there is none, and UsageError naming both where two images or
    two videos share a name.
    """
    if source.is_file():
        return {Path(source.stem): source}
    if not source.is_dir():
        is_there = isinstance(source, Path) and os.path.lexists(source)
        what = "neither a file nor a folder" if is_there else "no such file or folder"
        raise NoImages(f"{source}: {what}")
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *UNREAD_SUFFIXES)
    found, problems = files_below(source, suffixes, leave_out)
    if problems:
        more = f" (and {len(problems) - 1} more such pairs)" if len(problems) > 1 else ""
        raise UsageError(problems[0] + more)
    if not found:
        raise NoImages(f"{source}: no image in it ({', '.join(IMAGE_SUFFIXES)})")
    return {Path(name): path for name, path in found.items()}


def files_below(
    folder: AnyPath, suffixes: Iterable[str], leave_out: Collection[AnyPath] = ()
) -> tuple[dict[str, Any], list[str]]:
    """{name: file} of the files below `folder` with one of `suffixes`, in order of name, and what is wrong.

    A name is the path below the folder with forward slashes, without the suffix. Hidden files and folders
    are left out, and the folders `leave_out` with all in them; links are followed. Two files of one name are
    a problem that names both. Raises OSError for a folder that cannot be listed.
    """
    suffixes = tuple(suffixes)
    found: dict[str, AnyPath] = {}
    problems = []
    for path, below in _below(folder, leave_out):
        if path.suffix.lower() not in suffixes:
            continue
        name = below.with_suffix("").as_posix()
        if name in found:
            problems.append(f"{found[name]} and {path}: two files of one name; rename or remove one")
        found[name] = path
    return dict(sorted(found.items())), problems


def walk(folder: Path, leave_out: Collection[AnyPath] = ()) -> Iterator[Path]:
    """Every file below a local `folder`; see `files_below`."""
    closed = {_identity(path) for path in leave_out if isinstance(path, Path) and path.is_dir()}
    return _walk(folder, [_identity(folder)], closed)


def _below(folder: AnyPath, leave_out: Collection[AnyPath]) -> Iterator[tuple[AnyPath, PurePath]]:
    """Every file below a folder, and its path from there."""
    if isinstance(folder, Path):
        for file in walk(folder, leave_out):
            yield file, file.relative_to(folder)
        return
    closed = {path for path in leave_out if isinstance(path, Remote)}
    for path in folder.files():
        below = path.relative_to(folder)
        above = (folder / parent.as_posix() for parent in below.parents if parent.name)
        if not any(part.startswith(".") for part in below.parts) and closed.isdisjoint(above):
            yield path, below


def _walk(folder: Path, above: list[tuple[int, int]], closed: set[tuple[int, int]]) -> Iterator[Path]:
    """Files below `folder`. `above` are the folders that lead here: a link back to one would never end."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if not _is_folder(entry):
            yield path
            continue
        here = _identity(path)
        if here not in above and here not in closed:
            yield from _walk(path, [*above, here], closed)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself.
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def normal(name: str) -> str:
    """A name in the one Unicode form that names are compared in: macOS and Linux write é differently."""
    return unicodedata.normalize("NFC", name)


def says_kind(path: AnyPath) -> str:
    """What a picture of a kind that is not read is called, or an empty text."""
    kind = UNREAD_SUFFIXES.get(path.suffix.lower())
    return f"{kind} is not read; save it as PNG" if kind else ""
