"""The one TFDS builder of this project: image and label files in ArrayRecord.

An example is {"image": an encoded image of 8 bits that lies as viewers show it, "label": encoded 8-bit grey
PNG of raw ids, "name": text}. A label's file that is so is kept as it is, another is written anew without
loss. What becomes of an image's file is said by `encoding`.
The label of an example without one is no bytes at all. Examples given as encoded bytes need no TensorFlow,
neither to write nor to read.
"""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from dpanet_jax.data import images, labels
from dpanet_jax.data.archives import File
from dpanet_jax.data.encoding import Encoding
from dpanet_jax.data.labels import Meaning
from dpanet_jax.data.listing import Pair
from dpanet_jax.data.location import VERSION


# TFDS loads lazily, so a type checker does not see the keyword.
class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Stores the pairs of every split, in order, together with all that reading them needs.

    splits: the checked pairs. meaning: what the pixels of the labels may be. encoding: how images are stored.
    rewritten: the files that are not stored as they are. metadata: JSON-able; travels beside the records
    (`metadata.json`). progress: called once for every example written.
    """

    VERSION = tfds.core.Version(VERSION)
    # It downloads nothing, so TFDS need not look for a file of checksums beside the code.
    url_infos = None

    def __init__(
        self,
        name: str,
        splits: dict[str, list[Pair]],
        meaning: Meaning,
        encoding: Encoding,
        rewritten: Collection[File],
        metadata: dict[str, Any],
        *,
        data_dir: Path,
        config: str | None = None,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self._splits = splits
        self._meaning = meaning
        self._encoding = encoding
        self._rewritten = rewritten
        self._metadata = metadata
        self._progress = progress
        super().__init__(
            data_dir=data_dir,
            config=config and tfds.core.BuilderConfig(name=config, version=self.VERSION),
        )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.name}: images and per-pixel class labels",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "name": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(self._metadata),
            # The order of the records is the order of the names: evaluation and figures rely on it.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        del dl_manager
        return {split: self._generate_examples(pairs) for split, pairs in self._splits.items()}

    def _generate_examples(self, pairs: list[Pair]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, pair in enumerate(pairs):
            yield (
                index,
                {
                    "image": self._image(pair.image),
                    "label": b"" if pair.label is None else self._label(pair.label),
                    # Not every file name is text.
                    "name": pair.name.encode("utf-8", "surrogateescape"),
                },
            )
            self._progress()

    def _image(self, path: File) -> bytes:
        encoded = images.read_bytes(path)
        if path not in self._rewritten:
            return encoded
        return self._encoding.encode(images.rgb(images.upright(images.decode(encoded, path)), path))

    def _label(self, path: File) -> bytes:
        encoded = images.read_bytes(path)
        if path not in self._rewritten:
            return encoded
        return images.png(labels.raw_ids(images.decode(encoded, path), encoded, self._meaning))
