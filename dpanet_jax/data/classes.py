"""What the pixels of a label mean: class names, colours, and the map from raw ids to train ids."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpanet_jax.errors import DPANetError

IGNORE_LABEL = 255
IGNORE_NAME = "ignore"


class ClassesError(DPANetError, ValueError):
    """Classes do not fit together, or a classes file is wrong; the text names the file and the line."""


class ClassesFileNotFound(ClassesError, FileNotFoundError):
    """There is no classes file where one should be."""


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
    """The K classes of a data set.

    names: K class names; a class's position is its train id.
    colors: (K, 3) uint8, RGB.
    id_map: (256,) uint8, raw id in a label file → train id 0..K-1, or IGNORE_LABEL for an ignored pixel.
    known: (256,) bool, the raw ids that a label file may hold; `prepare` refuses any other.
    """

    names: tuple[str, ...]
    colors: np.ndarray
    id_map: np.ndarray
    known: np.ndarray

    def __post_init__(self) -> None:
        colors = np.array(self.colors, np.uint8)
        id_map = np.array(self.id_map, np.uint8)
        known = np.array(self.known, bool)
        k = len(self.names)
        if not 1 <= k <= IGNORE_LABEL:
            raise ClassesError(f"a data set has 1 to {IGNORE_LABEL} classes, not {k}")
        if colors.shape != (k, 3):
            raise ClassesError(f"{k} class names need colours of shape ({k}, 3), not {colors.shape}")
        if id_map.shape != (256,) or known.shape != (256,):
            raise ClassesError("id_map and known need 256 entries each, one for every raw id")
        if not np.all((id_map < k) | (id_map == IGNORE_LABEL)):
            raise ClassesError(f"id_map may hold 0 to {k - 1} and {IGNORE_LABEL} only")
        for array in (colors, id_map, known):
            array.setflags(write=False)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "colors", colors)
        object.__setattr__(self, "id_map", id_map)
        object.__setattr__(self, "known", known)

    @classmethod
    def from_ids(
        cls,
        names: Sequence[str],
        colors: Sequence[Sequence[int]],
        ids: Sequence[int] | None = None,
        ignored_ids: Sequence[int] = (),
    ) -> "Classes":
        """Builds the maps from each class's raw id (default 0..K-1) and the raw ids to ignore.

        IGNORE_LABEL is always ignored unless `ids` gives it to a class.
        """
        ids = range(len(names)) if ids is None else ids
        id_map = np.full(256, IGNORE_LABEL, np.uint8)
        known = np.zeros(256, bool)
        known[[IGNORE_LABEL, *ignored_ids]] = True
        for train_id, raw_id in enumerate(ids):
            id_map[raw_id] = train_id
            known[raw_id] = True
        return cls(tuple(names), np.asarray(colors), id_map, known)

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Classes) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.names, self.colors.tobytes(), self.id_map.tobytes()))

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain lists that JSON keeps; `from_dict` is its inverse."""
        return {
            "names": list(self.names),
            "colors": self.colors.tolist(),
            "id_map": self.id_map.tolist(),
            "known": np.flatnonzero(self.known).tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Classes":
        """Reads what `to_dict` wrote; raises ClassesError on anything else."""
        try:
            known = np.zeros(256, bool)
            known[data["known"]] = True
            return cls(tuple(data["names"]), data["colors"], data["id_map"], known)
        except (KeyError, TypeError, IndexError, OverflowError, ValueError) as error:
            raise ClassesError(f"not the classes of a data set ({error!r})") from error


def colorize(labels: np.ndarray, classes: Classes) -> np.ndarray:
    """Train ids, uint8 of any shape → their colours, uint8 of that shape + (3,). 255 is black.

    Raises ValueError for an id that is neither a class nor 255.
    """
    labels = np.asarray(labels)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.colors
    wrong = labels[(labels != IGNORE_LABEL) & ((labels < 0) | (labels >= len(classes)))]
    if wrong.size:
        raise ValueError(f"label {wrong.flat[0]} is not one of the {len(classes)} classes")
    return palette[labels]


def read_classes(path: str | Path) -> Classes:
    """Reads a classes file: CSV with the header `name,red,green,blue` and an optional column `id`.

    Rows are the classes in the order of their train ids. `id` is the class's value in the label
    PNGs; without it, that is the row's number from 0. A row named `ignore` gives an id that may
    stand in the labels and is left out of training and evaluation; 255 always is.

    Raises ClassesError naming the file and the line; ClassesFileNotFound where there is no file.
    """
    path = Path(path)
    if not path.is_file():
        raise ClassesFileNotFound(f"{path}: no such file; a classes file has the header name,red,green,blue")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # A reader's line_num counts physical lines, so a quoted line break does not shift it.
            reader = csv.reader(file, skipinitialspace=True)
            rows = [(reader.line_num, [v.strip() for v in row]) for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ClassesError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    if not rows:
        raise ClassesError(f"{path}: empty; the first line must be name,red,green,blue")
    header_line, header = rows[0]
    columns = {name.lower(): i for i, name in enumerate(header)}
    missing = [name for name in ("name", "red", "green", "blue") if name not in columns]
    unknown = [name for name in columns if name not in ("name", "red", "green", "blue", "id")]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
        raise ClassesError(
            f"{path}, line {header_line}: the header {what}; it must be name,red,green,blue"
            " with an optional id"
        )

    names: list[str] = []
    colors: list[list[int]] = []
    ids: list[int] = []
    ignored: list[int] = []
    for row_number, (line, row) in enumerate(rows[1:]):
        where = f"{path}, line {line}"
        if len(row) != len(header):
            raise ClassesError(f"{where}: {len(row)} values, the header has {len(header)}")
        name = row[columns["name"]]
        raw_id = _byte(row[columns["id"]], "id", where) if "id" in columns else row_number
        if not name:
            raise ClassesError(f"{where}: a class needs a name")
        if raw_id > 255:
            raise ClassesError(f"{where}: a label file holds ids 0 to 255, so no more than 256 rows")
        if raw_id in ids or raw_id in ignored:
            raise ClassesError(f"{where}: id {raw_id} is given twice")
        color = [_byte(row[columns[c]], c, where) for c in ("red", "green", "blue")]
        if name.lower() == IGNORE_NAME:
            ignored.append(raw_id)
            continue
        if name in names:
            raise ClassesError(f"{where}: the class {name!r} is given twice")
        if raw_id == IGNORE_LABEL:
            raise ClassesError(f"{where}: id {IGNORE_LABEL} is always ignored, so it cannot be {name!r}")
        names.append(name)
        colors.append(color)
        ids.append(raw_id)
    if not names:
        raise ClassesError(f"{path}: no class below the header")
    return Classes.from_ids(names, colors, ids, ignored)


def _byte(text: str, column: str, where: str) -> int:
    if not text.isdecimal() or int(text) > 255:
        raise ClassesError(f"{where}: {column} must be a whole number from 0 to 255, not {text!r}")
    return int(text)
