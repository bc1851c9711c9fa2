"""Reads every file of a data set's source before anything is written, and says what is wrong."""

import concurrent.futures
import dataclasses
import hashlib

import numpy as np
from PIL import Image

from dpanet_jax import cores
from dpanet_jax.data import images, labels
from dpanet_jax.data.archives import ArchiveError, File
from dpanet_jax.data.census import Census, Seen
from dpanet_jax.data.encoding import Encoding
from dpanet_jax.data.labels import LabelProblem, Meaning
from dpanet_jax.data.listing import Listing, Pair
from dpanet_jax.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a source holds.

    sizes: the (height, width) of every example, by split. fingerprint: of it all, and of an encoding that
    changes pixels. rewritten: the files that are not stored as they are. census: what has been counted.
    """

    sizes: dict[str, list[tuple[int, int]]]
    fingerprint: str
    rewritten: frozenset[File]
    census: Census


def check_source(
    listing: Listing, encoding: Encoding | None = None, *, quiet: bool = False
) -> tuple[Contents, list[str]]:
    """Decodes every image and label of `listing`, on all cores. encoding: how the images are to be stored.

    Returns the contents and the list of problems, each of which names its files; the contents
    are meaningful only where that list is empty. Shows a progress bar unless `quiet`.
    """
    jobs = [(split, pair) for split, pairs in listing.splits.items() for pair in pairs]
    workers = min(16, cores.usable())
    problems: list[str] = []
    rewritten: list[File] = []
    sizes: dict[str, list[tuple[int, int]]] = {split: [] for split in listing.splits}
    census = Census(listing.classes)
    digest = hashlib.sha256(repr(listing.classes.to_dict()).encode())
    meaning, encoding = listing.meaning(), encoding or Encoding()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda job: _check_pair(job[1], meaning, encoding), jobs)
        bar = progress_bar(results, total=len(jobs), desc="checking", unit="image", disable=quiet)
        for (split, pair), seen in zip(jobs, bar, strict=True):
            problems += seen.problems
            rewritten += seen.rewritten
            sizes[split].append(seen.size)
            census.add(split, pair, seen)
            digest.update(f"{split}/{pair.name}\0".encode("utf-8", "surrogateescape") + seen.digest)
    if not problems and not listing.problems:
        problems = census.problems()
    return Contents(sizes, digest.hexdigest(), frozenset(rewritten), census), problems


def _check_pair(pair: Pair, meaning: Meaning, encoding: Encoding) -> Seen:
    seen = Seen()
    digest = hashlib.sha256()
    image, encoded = _decode(pair.image, seen.problems)
    seen.image_digest = hashlib.sha256(encoded).digest()
    digest.update(seen.image_digest)
    upright = None
    if image is not None:
        seen.turned = images.orientation(image) > 1
        upright = images.upright(image)
        seen.size = (upright.height, upright.width)
        seen.extra_channels = images.has_channels_left_out(image)
        try:
            images.require_readable(image, pair.image)
            seen.extrema = _extrema(image)
            if not images.is_plain(image):
                digest.update(b"as PNG")
            if not encoding.keeps(image):
                seen.rewritten.append(pair.image)
                if encoding.changes_pixels:
                    digest.update(f"as {encoding}".encode())
        except images.ImageError as error:
            seen.problems.append(str(error))
    if pair.label is not None:
        label, encoded = _decode(pair.label, seen.problems)
        digest.update(hashlib.sha256(encoded).digest())
        if label is not None:
            try:
                ids = labels.raw_ids(label, encoded, meaning)
                seen.raw_counts = np.bincount(ids.ravel(), minlength=256)
                if meaning.table is not None or not labels.is_stored_as_it_is(label, encoded):
                    seen.rewritten.append(pair.label)
            except LabelProblem as problem:
                seen.problems.append(f"{pair.label}: {problem}")
        if image is not None and label is not None and upright is not None and upright.size != label.size:
            seen.problems.append(_sizes_differ(pair, image, upright, label))
    seen.digest = digest.digest()
    return seen


def _decode(path: File, problems: list[str]) -> tuple[Image.Image | None, bytes]:
    try:
        encoded = images.read_bytes(path)
        return images.decode(encoded, path), encoded
    except (images.ImageError, ArchiveError) as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{path}: unreadable ({error.strerror or error})")
    return None, b""


def _extrema(image: Image.Image) -> tuple[int, int]:
    """The smallest and the largest value of any channel, on the scale of 8 bits; a palette's are not told."""
    if image.mode in ("P", "PA", "CMYK", "YCbCr"):
        return 0, 255
    if image.mode in images.DEEP_MODES:
        deep = np.asarray(image)
        return int(deep.min()) >> 8, int(deep.max()) >> 8
    bands = image.getextrema()
    pairs = bands if isinstance(bands[0], tuple) else (bands,)
    colored = pairs[: {"LA": 1, "RGBA": 3, "RGBX": 3}.get(image.mode)]
    return min(int(low) for low, _ in colored), max(int(high) for _, high in colored)


def _sizes_differ(pair: Pair, image: Image.Image, upright: Image.Image, label: Image.Image) -> str:
    problem = f"{pair.image} is {_size(upright)} and {pair.label} is {_size(label)}: sizes differ"
    if upright.size != image.size and image.size == label.size:
        problem += (
            f". The EXIF orientation {images.orientation(image)} of the image is the cause: viewers show it "
            f"as {_size(upright)}, and the label was drawn on the {_size(image)} that are stored; remove the "
            "orientation from the image (exiftool -Orientation= FILE), or turn the label"
        )
    return problem


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
