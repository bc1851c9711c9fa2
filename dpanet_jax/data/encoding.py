"""How `prepare` stores images: as the source has them, or in one form that is read faster.

Labels are always stored without loss. Images are whatever the encoding says in every split.
"""

import dataclasses
import io
from typing import Annotated, Literal

import numpy as np
from PIL import Image

from dpanet_jax.data import images
from dpanet_jax.options import Option, OptionError

_FORMATS = {"jpeg": ("JPEG",), "png": ("PNG",), "raw": (), "source": ("PNG", "JPEG")}


@dataclasses.dataclass(frozen=True)
class Encoding:
    """The form of the stored images.

    source: a PNG or JPEG of 8 bits as it is, others as PNG. jpeg: a JPEG as it is, others as JPEG, which
    changes pixels. png: without loss. raw: without loss and without compression (BMP).
    """

    store: Annotated[
        Literal["source", "jpeg", "png", "raw"],
        Option("how images are stored: source, as the files are; jpeg; png; raw, not compressed"),
    ] = "source"
    store_quality: Annotated[
        int, Option("of store=jpeg: the more, the larger and the truer", least=1, most=100)
    ] = 95

    def __post_init__(self) -> None:
        if self.store != "jpeg" and self.store_quality != type(self).store_quality:
            raise OptionError(
                f"store_quality={self.store_quality}: store={self.store} has none; set store to jpeg"
            )

    def __str__(self) -> str:
        """What follows "images as"."""
        words = {"source": "the source has them", "jpeg": f"jpeg of quality {self.store_quality}"}
        return words.get(self.store, self.store)

    def keeps(self, image: Image.Image) -> bool:
        """Whether the file that `image` was decoded from is stored as it is."""
        return image.format in _FORMATS[self.store] and images.is_plain(image)

    @property
    def changes_pixels(self) -> bool:
        """Whether an image that is not kept as it is loses something."""
        return self.store == "jpeg"

    def encode(self, pixels: np.ndarray) -> bytes:
        """The file to store for uint8 (H, W, 3)."""
        if self.store in ("source", "png"):
            return images.png(pixels)
        out = io.BytesIO()
        if self.store == "raw":
            Image.fromarray(pixels).save(out, format="BMP")
        else:
            # Colour at full resolution: the borders of classes are borders of colour.
            Image.fromarray(pixels).save(out, format="JPEG", quality=self.store_quality, subsampling=0)
        return out.getvalue()
