"""Reads every file of a data set's source before anything is written, and says what is wrong."""

import concurrent.futures
import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from dpanet_jax.data import images
from dpanet_jax.data.listing import Listing, Pair
from dpanet_jax.progress import progress_bar

_PNG_BIT_DEPTH_BYTE = 24


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a source holds: the (height, width) of every example, and a fingerprint of it all."""

    sizes: dict[str, list[tuple[int, int]]]
    fingerprint: str


def check_source(listing: Listing, *, quiet: bool = False) -> tuple[Contents, list[str]]:
    """Decodes every image and label of `listing`, on all cores.

    Returns the contents and the list of problems, each of which names its files; the contents
    are meaningful only where that list is empty. Shows a progress bar unless `quiet`.
    """
    jobs = [(split, pair) for split, pairs in listing.splits.items() for pair in pairs]
    workers = min(16, os.cpu_count() or 1)
    problems: list[str] = []
    sizes: dict[str, list[tuple[int, int]]] = {split: [] for split in listing.splits}
    digest = hashlib.sha256(repr(listing.classes.to_dict()).encode())
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda job: _check_pair(job[1], listing), jobs)
        bar = progress_bar(results, total=len(jobs), desc="checking", unit="image", disable=quiet)
        for (split, pair), (found, size, pair_digest) in zip(jobs, bar, strict=True):
            problems += found
            sizes[split].append(size)
            digest.update(f"{split}/{pair.name}\0".encode() + pair_digest)
    return Contents(sizes, digest.hexdigest()), problems


def _check_pair(pair: Pair, listing: Listing) -> tuple[list[str], tuple[int, int], bytes]:
    problems: list[str] = []
    digest = hashlib.sha256()
    image, encoded = _decode(pair.image, problems)
    digest.update(hashlib.sha256(encoded).digest())
    if image is not None:
        try:
            images.require_8_bits(image, pair.image)
        except images.ImageError as error:
            problems.append(str(error))
    if pair.label is not None:
        label, encoded = _decode(pair.label, problems)
        digest.update(hashlib.sha256(encoded).digest())
        if label is not None:
            problems += _label_problems(pair.label, label, encoded, listing)
        if image is not None and label is not None and image.size != label.size:
            problems.append(
                f"{pair.image} is {_size(image)} and {pair.label} is {_size(label)}: sizes differ"
            )
    height_width = (image.height, image.width) if image is not None else (0, 0)
    return problems, height_width, digest.digest()


def _decode(path: Path, problems: list[str]) -> tuple[Image.Image | None, bytes]:
    try:
        encoded = path.read_bytes()
        return images.decode(encoded, path), encoded
    except images.ImageError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{path}: unreadable ({error})")
    return None, b""


def _label_problems(path: Path, label: Image.Image, encoded: bytes, listing: Listing) -> list[str]:
    if label.format != "PNG":
        return [f"{path}: a {label.format} file; labels must be PNG, which is lossless"]
    # Pillow stretches grey of 1, 2 or 4 bits to 0..255, which would change the ids.
    shallow = label.mode != "P" and encoded[_PNG_BIT_DEPTH_BYTE] < 8
    if label.mode not in ("L", "P") or shallow:
        kind = f"{encoded[_PNG_BIT_DEPTH_BYTE]}-bit grey" if shallow else label.mode
        return [
            f"{path}: pixels of kind {kind}; a label must be an 8-bit grey or palette PNG of class"
            " ids, not colours"
        ]
    # tobytes gives a palette image's indices, which are the ids, where a conversion gives colours.
    ids = np.flatnonzero(np.bincount(np.frombuffer(label.tobytes(), np.uint8), minlength=256))
    unknown = ids[~listing.classes.known[ids]]
    if unknown.size:
        listed = ", ".join(map(str, unknown[:8])) + ", …" * (unknown.size > 8)
        problem = f"{path}: label id {listed} is not one of the {len(listing.classes)} classes or ignored"
        if listing.classes_file:
            problem += f"; a row named ignore in {listing.classes_file.name} leaves an id out"
        return [problem]
    return []


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
