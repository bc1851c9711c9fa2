"""Where a prepared data set lies: data_dir/NAME/VERSION, or data_dir/NAME/CONFIG/VERSION."""

import json
import os
import re
from pathlib import Path
from typing import Any

from dpanet_jax import paths
from dpanet_jax.data.datasets import DATASETS
from dpanet_jax.data.listing import DataError
from dpanet_jax.errors import DPANetError, UsageError
from dpanet_jax.paths import AnyPath, PathLike

VERSION = "1.0.0"
_DEFAULT_CONFIG = "default"


class DatasetNotFound(DPANetError, FileNotFoundError):
    """The data set has not been prepared in this data_dir; the message says how to."""


def split_name(dataset: str) -> tuple[str, str | None]:
    """`folder/NAME` → ("folder", "NAME"), `folder` → ("folder", "default"), `camvid` → ("camvid", None).

    The config is None for a data set that has no configs. Raises UsageError with the choices for an
    unknown name.
    """
    name, slash, config = dataset.partition("/")
    if name not in DATASETS or (slash and not DATASETS[name].has_configs):
        several = [f"{known}/NAME" for known, kind in DATASETS.items() if kind.has_configs]
        raise UsageError(
            f"unknown data set {dataset!r}; it is one of {', '.join(DATASETS)}, or {' or '.join(several)} for"
            " one of several of your own"
        )
    if not DATASETS[name].has_configs:
        return name, None
    if not slash:
        return name, _DEFAULT_CONFIG
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", config):
        raise UsageError(f"data set {dataset!r}: NAME in {name}/NAME takes letters, digits, '_', '-' and '.'")
    return name, config


def resolve_data_dir(data_dir: PathLike | None = None) -> AnyPath:
    """The folder of all data sets: `data_dir`, or TFDS's $TFDS_DATA_DIR, or ~/tensorflow_datasets.

    What is local is absolute. Raises UsageError for an address that cannot be read.
    """
    return paths.anywhere(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def dataset_dir(dataset: str, data_dir: PathLike | None = None) -> AnyPath:
    """The folder of the prepared data set, whether or not it is there."""
    name, config = split_name(dataset)
    root = resolve_data_dir(data_dir)
    return root / name / config / VERSION if config else root / name / VERSION


def is_prepared(target: AnyPath) -> bool:
    """Whether a data set is in its folder, as `dataset_dir` returns it.

    A local folder takes its name when it is whole; in a store, `metadata.json` is written last.
    """
    return target.is_dir() if isinstance(target, Path) else (target / "metadata.json").exists()


def prepare_command(dataset: str, data_dir: PathLike | None = None) -> str:
    """The command line that prepares `dataset`, for error messages."""
    source = " --source=DIR" if DATASETS[split_name(dataset)[0]].needs_source else ""
    where = f" --data_dir={data_dir}" if data_dir else ""
    return f"python -m dpanet_jax prepare --dataset={dataset}{source}{where}"


def read_metadata(target: AnyPath) -> dict[str, Any]:
    """What `prepare` stored beside the records.

    classes: see `Classes.to_dict`. fingerprint: text. sizes: {split: (height, width) of every example}.
    unlabelled: the splits without labels. pixels: labelled pixels by split and class, or None where they were
    not counted. notes: texts. source: the folder that it was made from. options: those of the data set.
    encoding: the fields of `Encoding`, {} where it is the default.
    Raises DataError where it is not whole.
    """
    try:
        metadata = json.loads((target / "metadata.json").read_text(encoding="utf-8"))
        # Data sets of earlier versions do not say which splits lack labels,
        # nor what their labels hold, nor how images are stored, which was in one way.
        whole = {"unlabelled": [], "pixels": None, "notes": [], "encoding": {}} | {
            key: metadata[key] for key in ("classes", "fingerprint", "sizes", "source", "options")
        }
        return whole | metadata
    except paths.RemoteError:
        raise  # Nothing is known of what is stored.
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            target, [f"metadata.json is not what prepare writes ({error}); prepare it anew with --overwrite"]
        ) from error
