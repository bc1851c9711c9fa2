"""What the pixels of a label mean: class names, colours, and the map from raw ids to train ids."""

import codecs
import csv
import dataclasses
import io
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

    @property
    def raw_ids(self) -> np.ndarray:
        """(K,) uint8: the id of each class in the label files, the lowest where it has several there.

        Raises ClassesError for a class that no id means.
        """
        lowest = [np.flatnonzero(self.id_map == k)[:1] for k in range(len(self))]
        lacking = [name for name, ids in zip(self.names, lowest, strict=True) if not ids.size]
        if lacking:
            raise ClassesError(f"no id of the label files means {', '.join(lacking)}")
        return np.concatenate(lowest).astype(np.uint8)

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
    files; without it, that is the row's number from 0. A row named `ignore` gives an id that may
    stand in the labels and is left out of training and evaluation; 255 is too, unless it is a class's id.

    Raises ClassesError naming the file and the line; ClassesFileNotFound where there is no file.
    """
    classes: list[_Row] = []
    ignored: list[_Row] = []
    for row in _rows(Path(path)):
        (ignored if row.is_ignored else classes).append(row)
    if not classes:
        raise ClassesError(f"{path}: no class below the header")
    if len(classes) > IGNORE_LABEL:
        raise ClassesError(f"{path}: {len(classes)} classes, of at most {IGNORE_LABEL}")
    return Classes.from_ids(
        [row.name for row in classes],
        [row.color for row in classes],
        [row.id for row in classes],
        [row.id for row in ignored],
    )


def read_label_colors(path: str | Path) -> dict[tuple[int, int, int], list[int]]:
    """{(red, green, blue): the ids with this colour} of a classes file, its rows named ignore included.

    Raises as `read_classes`.
    """
    colors: dict[tuple[int, int, int], list[int]] = {}
    for row in _rows(Path(path)):
        colors.setdefault(row.color, []).append(row.id)
    return colors


class _Row(NamedTuple):
    name: str
    color: tuple[int, int, int]
    id: int
    line: int

    @property
    def is_ignored(self) -> bool:
        return self.name.lower() == IGNORE_NAME


def _rows(path: Path) -> list[_Row]:
    (header_line, header), *lines = _cells(path)
    columns = {_SHORT.get(name.lower(), name.lower()): i for i, name in enumerate(header)}
    missing = [name for name in ("name", "red", "green", "blue") if name not in columns]
    unknown = [name for name in columns if name not in ("name", "red", "green", "blue", "id")]
    if missing or unknown or len(columns) < len(header):
        what = "has a column twice"
        if missing or unknown:
            extra = ", ".join(name or "(a column without a name)" for name in unknown)
            what = f"lacks {', '.join(missing)}" if missing else f"has unknown {extra}"
        raise ClassesError(
            f"{path}, line {header_line}: the header {what}; it must be name,red,green,blue"
            f" with an optional id{_separator(header)}"
        )
    rows: list[_Row] = []
    for number, (line, cells) in enumerate(lines):
        where = f"{path}, line {line}"
        if len(cells) != len(header):
            raise ClassesError(
                f"{where}: {len(cells)} values, the header has {len(header)}{_separator(cells)}"
            )
        name = unicodedata.normalize("NFC", cells[columns["name"]])
        raw_id = _byte(cells[columns["id"]], "id", where) if "id" in columns else number
        if not name or "\0" in name:
            raise ClassesError(f"{where}: a class needs a name" + ", not zeros" * bool(name))
        if raw_id > 255:
            raise ClassesError(f"{where}: a label file holds ids 0 to 255, so no more than 256 rows")
        red, green, blue = (_byte(cells[columns[c]], c, where) for c in ("red", "green", "blue"))
        row = _Row(name, (red, green, blue), raw_id, line)
        for other in rows:
            if other.id == raw_id:
                raise ClassesError(f"{where}: id {raw_id} is given twice, in line {other.line} too")
            if not row.is_ignored and other.name.casefold() == name.casefold():
                but = "" if other.name == name else f", in line {other.line} as {other.name!r}"
                raise ClassesError(f"{where}: the class {name!r} is given twice{but}")
        rows.append(row)
    return rows


# As many published classes files have it.
_SHORT = {"r": "red", "g": "green", "b": "blue"}


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """(line, values) of the header and of each row that is not empty."""
    if path.is_dir():
        raise ClassesError(f"{path}: a folder, where the classes file should be")
    if not path.is_file():
        raise ClassesFileNotFound(f"{path}: no such file; a classes file has the header name,red,green,blue")
    try:
        encoded = path.read_bytes()
        if encoded.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ClassesError(f"{path}: text in UTF-16; save it as CSV in UTF-8")
        text = encoded.decode("utf-8-sig")
        # A reader's line_num counts physical lines, so a quoted line break does not shift it.
        reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
        rows = [(reader.line_num, [v.strip() for v in row]) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ClassesError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    except OSError as error:
        raise ClassesError(f"{path}: unreadable ({error.strerror})") from error
    # Spreadsheets leave rows of commas alone below the last one.
    rows = [(line, row) for line, row in rows if any(row)]
    if not rows:
        raise ClassesError(f"{path}: empty; the first line must be name,red,green,blue")
    return rows


def _separator(cells: Sequence[str]) -> str:
    """What is said of a line whose values something else than commas separates."""
    if len(cells) == 1:
        for sign, words in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if sign in cells[0]:
                return f"; {words} separate its values, where commas must"
    return ""


def _byte(text: str, column: str, where: str) -> int:
    if not text.isdecimal() or int(text) > 255:
        raise ClassesError(f"{where}: {column} must be a whole number from 0 to 255, not {text!r}")
    return int(text)
