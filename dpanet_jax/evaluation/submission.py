"""Predictions of a split in one archive, as the servers of the benchmarks take them.

- Cityscapes: a ZIP archive of CITY_SEQUENCE_FRAME_pred_labelIds.png, grey PNGs of the ids of the label files.
  Its evaluation (cityscapesScripts) finds a prediction by the first three parts of its name.
- PASCAL VOC 2012: results/VOC2012/Segmentation/comp6_SPLIT_cls/NAME.png, PNGs with VOC's palette whose
  indices are the ids (development kit, section 5.3; `comp6` may use data that is not VOC's, such as SBD's
  masks or ImageNet's weights). As ZIP or TAR archive.
"""

import dataclasses
import io
import os
import re
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from dpanet_jax import paths
from dpanet_jax.data.classes import Classes
from dpanet_jax.data.datasets.cityscapes import CITYSCAPES
from dpanet_jax.data.datasets.voc import VOC
from dpanet_jax.data.split import Split
from dpanet_jax.errors import UsageError

_TAR = (".tar.gz", ".tgz")


@dataclasses.dataclass(frozen=True)
class Format:
    """What one server takes.

    server: its name. classes: of the data sets that it is for. suffixes: of its archives. name: what names of
    images it knows; the first group is what its files are called by. place: of the file in the archive, with
    {split} and {name}. in_palette: the PNGs have the classes' colours as palette; else they are grey.
    """

    server: str
    classes: Classes
    suffixes: tuple[str, ...]
    name: re.Pattern[str]
    name_words: str
    place: str
    in_palette: bool = False


FORMATS = (
    Format(
        server="Cityscapes",
        classes=CITYSCAPES,
        suffixes=(".zip",),
        name=re.compile(r"([^_]+_\d{6}_\d{6})(?:_leftImg8bit)?"),
        name_words="CITY_SEQUENCE_FRAME, such as berlin_000000_000019",
        place="{name}_pred_labelIds.png",
    ),
    Format(
        server="PASCAL VOC",
        classes=VOC,
        suffixes=(".zip", *_TAR),
        name=re.compile(r"(\d{4}_\d{6})"),
        name_words="YEAR_NUMBER, such as 2008_000006",
        place="results/VOC2012/Segmentation/comp6_{split}_cls/{name}.png",
        in_palette=True,
    ),
)


class Submission:
    """An observer of `evaluate` that keeps each prediction of a split as a PNG of the image's own size.

    They are kept in memory until `write`: some ten kilobytes each. Raises UsageError where no server takes
    predictions of these classes.
    """

    def __init__(self, split: Split) -> None:
        self.form = _form_of(split.classes)
        self._raw_ids = split.classes.raw_ids
        self._sizes = split.sizes
        # Of an expression such as test[:10%], its split.
        self._split = re.split(r"\W", split.name)[0]
        self._files: dict[int, tuple[str, bytes]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def require(self, path: paths.PathLike, names: Iterable[str]) -> None:
        """Raises UsageError, or RemoteError, where the archive cannot be written to `path`, or the server
        could not know an image by its name, of `names`.
        """
        _require_writable(paths.anywhere(path), self.form)
        places: dict[str, str] = {}
        for name in names:
            place = self._place(name)
            if place in places:
                raise UsageError(f"--submission: {places[place]} and {name} have one name for the server")
            places[place] = name

    def see(self, name: str, index: int, label: np.ndarray, prediction: np.ndarray) -> None:
        """Keeps one image's prediction; see `Observer`. UsageError where it has not the image's size."""
        del label
        if prediction.shape != tuple(self._sizes[index]):
            sizes = ["x".join(map(str, reversed(size))) for size in (prediction.shape, self._sizes[index])]
            raise UsageError(
                f"--submission: {name} has {sizes[1]} pixels and its prediction {sizes[0]}; take another "
                "--protocol"
            )
        self._files[index] = (self._place(name), self._png(self._raw_ids[prediction]))

    def merge(self, other: "Submission") -> None:
        """Takes in the predictions that another host has made."""
        self._files |= other._files

    def write(self, path: paths.AnyPath) -> paths.AnyPath:
        """Writes the archive, whole or not at all, in the split's order; returns `path`."""
        files = [self._files[index] for index in sorted(self._files)]
        with paths.replacing(path) as unfinished:
            (_write_tar if path.name.lower().endswith(_TAR) else _write_zip)(unfinished, files)
        return path

    def _place(self, name: str) -> str:
        """Where in the archive the prediction of an image lies."""
        match = self.form.name.fullmatch(PurePosixPath(name).name)
        if match is None:
            raise UsageError(
                f"--submission: the {self.form.server} server knows images by names like "
                f"{self.form.name_words}; {name!r} is none"
            )
        return self.form.place.format(name=match[1], split=self._split)

    def _png(self, ids: np.ndarray) -> bytes:
        image = Image.fromarray(ids)
        if self.form.in_palette:
            image.putpalette(self.form.classes.colors.tobytes())
        encoded = io.BytesIO()
        image.save(encoded, format="PNG")
        return encoded.getvalue()


def _form_of(classes: Classes) -> Format:
    for form in FORMATS:
        if form.classes.names == classes.names:
            return form
    servers = " and ".join(form.server for form in FORMATS)
    raise UsageError(f"--submission: the servers of {servers} are known, and this data set has other classes")


def _require_writable(path: paths.AnyPath, form: Format) -> None:
    if not path.name.lower().endswith(form.suffixes):
        kinds = " or ".join(form.suffixes)
        raise UsageError(f"--submission={path}: archives for the {form.server} server end in {kinds}")
    if isinstance(path, Path):
        if not path.parent.is_dir():
            raise UsageError(f"--submission={path}: there is no folder {path.parent}")
        if path.is_dir():
            raise UsageError(f"--submission={path}: is a folder")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UsageError(f"--submission={path}: nothing may be written to {path.parent}")
    paths.require_writable(path.parent)


def _write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for place, content in files:
            # A date of its own, so that equal predictions make equal archives; PNGs are compressed already.
            info = zipfile.ZipInfo(place, (1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)


def _write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for place, content in files:
            info = tarfile.TarInfo(place)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
