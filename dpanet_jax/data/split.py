"""One split of a prepared data set, opened without TensorFlow."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dpanet_jax.data import images
from dpanet_jax.data.classes import Classes
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.location import (
    DatasetNotFound,
    dataset_dir,
    is_prepared,
    prepare_command,
    read_metadata,
)
from dpanet_jax.data.staging import local_copy
from dpanet_jax.errors import UsageError, is_out_of_memory
from dpanet_jax.paths import PathLike, cache_folder

_ENCODED = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}


class Split:
    """One split of a prepared data set: `len`, and `[i]` → {"image", "label", "name"}.

    image: (H, W, 3) uint8 RGB as stored: `prepare` has applied an EXIF orientation. label: (H, W) uint8 train
    ids; the key is not there where the split has no labels. name: text, the file's name within its split.

    name: the split expression. classes: see `Classes`. sizes: (height, width) of every example.
    fingerprint: changes with the files, the classes and the split expression. labelled: whether every
    example has a label.
    """

    def __init__(
        self,
        name: str,
        classes: Classes,
        sizes: Sequence[tuple[int, int]],
        fingerprint: str,
        source: Any,
        labelled: bool = True,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self._folder = folder
        self.classes = classes
        self.sizes = tuple(sizes)
        self.fingerprint = fingerprint
        self.labelled = labelled
        self._source = source

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        return example | {"image": example["image"].pixels()}

    def encoded(self, index: int) -> dict[str, Any]:
        """The same, but for the image, which is an `images.Encoded`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of split {self.name}, which has {len(self)}")
        with _readable(self._folder):
            stored = self._source[int(index) % len(self)]
        name = _text(stored["name"])
        example: dict[str, Any] = {"image": images.Encoded(stored["image"], name)}
        if self.labelled:
            raw_ids = np.asarray(images.decode(stored["label"], name))
            example["label"] = self.classes.id_map[raw_ids]
        return example | {"name": name}

    def names(self) -> list[str]:
        """The names of all examples. Every record is read for it, but no image is decoded."""
        with _readable(self._folder):
            return [_text(self._source[index]["name"]) for index in range(len(self))]


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogateescape")


def open_split(dataset: str, split: str, data_dir: PathLike | None = None) -> Split:
    """Opens a split of what `prepare` stored.

    dataset: "streets", "camvid", "folder" or "folder/NAME". split: "train", "val" or "test"; TFDS's
    expressions work, such as "train+val" and "train[:10%]".

    Raises UsageError (a ValueError) for an unknown data set or split, with the choices; DatasetNotFound (a
    FileNotFoundError) with the command to run where it has not been prepared; DataError (a ValueError)
    where what is stored is not whole.
    """
    stored = dataset_dir(dataset, data_dir)
    if not is_prepared(stored):
        raise DatasetNotFound(
            f"{dataset} is not prepared in {stored}; run: {prepare_command(dataset, data_dir)}"
        )
    metadata = read_metadata(stored)
    folder = local_copy(stored, lambda name: name.endswith(".json"))
    with _readable(folder):
        builder = tfds.builder_from_directory(folder)
    try:
        parts = tfds.core.splits.AbstractSplit.from_spec(split).to_absolute(builder.info.splits)
    except (ValueError, KeyError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"{dataset} has no split {split!r}; it has {', '.join(metadata['sizes'])}, and"
            " expressions such as train+val or train[:10%]"
        ) from error
    with _readable(folder):
        sizes: list[tuple[int, int]] = [
            (int(height), int(width))
            for part in parts
            for height, width in metadata["sizes"][part.splitname][slice(part.from_, part.to)]
        ]
        classes = Classes.from_dict(metadata["classes"])
        labelled = not any(part.splitname in metadata["unlabelled"] for part in parts)
    if not sizes:
        raise UsageError(f"split {split!r} of {dataset} holds no example")
    with _readable(folder):
        records = {name for part in parts for name in builder.info.splits[part.splitname].filenames}
    local_copy(stored, records.__contains__)
    with _readable(folder):
        source = builder.as_data_source(split, decoders=_ENCODED)
        count = len(source)
    if len(sizes) != count:
        raise DataError(
            folder,
            [
                f"metadata.json counts {len(sizes)} examples in {split!r} and the records {count};"
                " prepare it anew with --overwrite"
            ],
        )
    spans = [(part.splitname, part.from_, part.to) for part in parts]
    fingerprint = hashlib.sha256(repr((metadata["fingerprint"], spans)).encode()).hexdigest()
    return Split(split, classes, sizes, fingerprint, source, labelled, folder)


@contextlib.contextmanager
def _readable(folder: Path | None) -> Iterator[None]:
    """What goes wrong in reading stored files becomes a DataError: they are damaged."""
    try:
        yield
    except Exception as error:  # of whatever kind TFDS, protobuf and ArrayRecord trip over
        if is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        is_copy = folder is not None and folder.is_relative_to(cache_folder())
        advice = "remove this copy, and run again" if is_copy else "prepare it anew with --overwrite"
        raise DataError(folder or Path(), [f"what is stored cannot be read ({reason}); {advice}"]) from error
