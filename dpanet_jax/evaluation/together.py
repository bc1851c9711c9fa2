"""Which images `predict` puts through the network together, from their headers alone."""

import concurrent.futures
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import jax

from dpanet_jax.data import images
from dpanet_jax.paths import AnyPath, Remote

# Images share a batch up to so many pixels and images, on each device.
_PIXELS, _IMAGES = 2**21, 16
# To a store at a time, whose answers take longer than their content.
_REQUESTS = 16

# Names of images by (height, width); one whose header cannot be read is under its own name.
BySize = dict[tuple[int, int] | Path, list[Path]]


def by_size(found: Mapping[Path, AnyPath]) -> BySize:
    """The names of image files by size."""
    names: BySize = {}
    for name, size in zip(found, _sizes(found.values()), strict=True):
        names.setdefault(size or name, []).append(name)
    return names


def _sizes(files: Collection[AnyPath]) -> list[tuple[int, int] | None]:
    if not any(isinstance(path, Remote) for path in files):
        return [images.read_size(path) for path in files]
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as readers:
        return list(readers.map(images.read_size, files))


def of_one_size(names: BySize) -> Iterator[tuple[list[Path], int]]:
    """(names of images of one size, rows of their batch); all batches of one size have as many rows."""
    for size, its in names.items():
        most = rows_of_a_batch(size) if isinstance(size, tuple) else 1
        count = -(-len(its) // most)
        rows = -(-len(its) // count)
        for start in range(0, len(its), rows):
            yield its[start : start + rows], rows


def of_any_sizes(names: BySize) -> Iterator[tuple[list[Path], int]]:
    """(names of images, how many they are), for a protocol that compiles for no image's size."""
    together: list[Path] = []
    taken, devices = 0, jax.local_device_count()
    for size, its in names.items():
        pixels = size[0] * size[1] if isinstance(size, tuple) else 0
        for name in its:
            if together and (taken + pixels > _PIXELS * devices or len(together) == _IMAGES * devices):
                yield together, len(together)
                together, taken = [], 0
            together.append(name)
            taken += pixels
    if together:
        yield together, len(together)


def rows_of_a_batch(size: tuple[int, int]) -> int:
    """How many images of a (height, width) one batch holds at most, over this host's devices."""
    return jax.local_device_count() * max(1, min(_IMAGES, _PIXELS // max(1, size[0] * size[1])))
