"""The one TFDS builder of this project: image and label files kept as they are, in ArrayRecord.

An example is {"image": encoded PNG or JPEG, "label": encoded 8-bit grey PNG of raw ids, "name":
text}. The label of an example without one is no bytes at all. Examples given as encoded bytes need no
TensorFlow, neither to write nor to read.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from dpanet_jax.data import images
from dpanet_jax.data.listing import Pair
from dpanet_jax.data.location import VERSION


# TFDS loads lazily, so a type checker does not see the keyword.
class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Stores the pairs of every split, in order, together with all that reading them needs.

    splits: the checked pairs. metadata: JSON-able; travels beside the records (`metadata.json`).
    progress: called once for every example written.
    """

    VERSION = tfds.core.Version(VERSION)
    # It downloads nothing, so TFDS need not look for a file of checksums beside the code.
    url_infos = None

    def __init__(
        self,
        name: str,
        splits: dict[str, list[Pair]],
        metadata: dict[str, Any],
        *,
        data_dir: Path,
        config: str | None = None,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self._splits = splits
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
                    "image": pair.image.read_bytes(),
                    "label": b"" if pair.label is None else _grey_png(pair.label.read_bytes(), pair.label),
                    "name": pair.name,
                },
            )
            self._progress()


def _grey_png(encoded: bytes, name: object) -> bytes:
    """A palette PNG becomes a grey PNG of its indices, which are the ids; others stay as they are."""
    image = images.decode(encoded, name)
    if image.mode != "P":
        return encoded
    grey = Image.frombytes("L", image.size, image.tobytes())
    out = io.BytesIO()
    grey.save(out, format="PNG")
    return out.getvalue()
