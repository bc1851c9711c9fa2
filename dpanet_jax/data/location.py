"""Where a prepared data set lies: data_dir/NAME/VERSION, or data_dir/folder/CONFIG/VERSION."""

import json
import os
import re
from pathlib import Path

DATASETS = ("streets", "camvid", "folder")
VERSION = "1.0.0"
_DEFAULT_CONFIG = "default"


class DatasetNotFound(FileNotFoundError):
    """The data set has not been prepared in this data_dir; the message says how to."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def default_data_dir() -> Path:
    """TFDS's own default: $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def split_name(dataset: str) -> tuple[str, str | None]:
    """`folder/NAME` → ("folder", "NAME"), `folder` → ("folder", "default"), else (dataset, None).

    Raises ValueError with the choices for anything else.
    """
    name, slash, config = dataset.partition("/")
    if name not in DATASETS or (slash and name != "folder"):
        raise ValueError(
            f"unknown data set {dataset!r}; it is one of {', '.join(DATASETS)}, or folder/NAME for"
            " one of several of your own"
        )
    if name != "folder":
        return name, None
    if not slash:
        return name, _DEFAULT_CONFIG
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", config):
        raise ValueError(f"data set {dataset!r}: NAME in folder/NAME takes letters, digits, '_', '-' and '.'")
    return name, config


def dataset_dir(dataset: str, data_dir: str | Path | None = None) -> Path:
    """The folder of the prepared data set, whether or not it is there."""
    name, config = split_name(dataset)
    root = Path(data_dir).expanduser() if data_dir else default_data_dir()
    return root / name / config / VERSION if config else root / name / VERSION


def prepare_command(dataset: str, data_dir: str | Path | None = None) -> str:
    """The command line that prepares `dataset`, for error messages."""
    source = "" if dataset == "streets" else " --source=DIR"
    where = f" --data_dir={data_dir}" if data_dir else ""
    return f"python -m dpanet_jax prepare --dataset={dataset}{source}{where}"


def read_metadata(target: Path) -> dict:
    """What `prepare` stored beside the records: classes, fingerprint, sizes, source and options."""
    return json.loads((target / "metadata.json").read_text(encoding="utf-8"))
