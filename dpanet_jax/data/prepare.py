"""The verb `prepare`: check a source from end to end, then store it once as TFDS ArrayRecord.

    python -m dpanet_jax prepare --dataset=camvid --source=DIR
    python -m dpanet_jax prepare --dataset=folder --source=DIR        (or folder/NAME)
    python -m dpanet_jax prepare --dataset=streets                    (drawn, needs no source)

Everything is written under a staging folder beside its place and renamed when it is complete, so a
data set is either whole or not there.
"""

import contextlib
import dataclasses
import fcntl
import inspect
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from absl import logging as absl_logging

from dpanet_jax.data.builders.camvid import list_camvid
from dpanet_jax.data.builders.folder import list_folder
from dpanet_jax.data.builders.listing import DataError
from dpanet_jax.data.check import check
from dpanet_jax.data.location import (
    dataset_dir,
    default_data_dir,
    prepare_command,
    read_metadata,
    split_name,
)
from dpanet_jax.progress import progress_bar

_STAGING = ".incomplete"
_REPLACED = ".replaced"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `prepare` did: `str()` of it is the line to print.

    already: nothing was written, the data set was there. splits: examples by split.
    """

    dataset: str
    path: Path
    already: bool
    splits: dict[str, int]
    num_classes: int
    fingerprint: str

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        state = "is already prepared" if self.already else "prepared"
        hint = "; --overwrite prepares it anew" if self.already else ""
        return f"{self.dataset} {state}: {counts}, {self.num_classes} classes, in {self.path}{hint}"


def prepare(
    dataset: str,
    data_dir: str | Path | None = None,
    source: str | Path | None = None,
    overwrite: bool = False,
    *,
    quiet: bool = False,
    **streets_options,
) -> Prepared:
    """Checks a whole source, then stores it under `data_dir` in the form that `pipeline` reads.

    dataset: "streets", "camvid", "folder" or "folder/NAME". data_dir: TFDS's default without it.
    source: the folder with the files; for streets, where its images are kept (default
    data_dir/downloads/streets). streets_options: those of `streets.write_streets`, such as
    num_train, num_val, size, seed. overwrite: replace what is there, once the new one is complete.

    Raises DataError (a ValueError) that lists all that is wrong with the source, before anything is
    written; ValueError for an unknown data set or option, or when the folder that is prepared came
    from another source, or the streets from other options; BlockingIOError when another process
    prepares the same data set.
    """
    name, config = split_name(dataset)
    root = Path(data_dir).expanduser() if data_dir else default_data_dir()
    options = _streets_options(streets_options) if name == "streets" else {}
    if streets_options and name != "streets":
        raise ValueError(f"{dataset} takes no option {', '.join(streets_options)}; they belong to streets")
    target = dataset_dir(dataset, root)
    if (target.parent / _REPLACED).is_dir():
        with _lock(target):
            _put_back(target)
    if target.is_dir() and not overwrite:
        return _already_prepared(dataset, target, source, options if streets_options else {})
    if source is None and name != "streets":
        raise ValueError(f"{dataset} needs its files: {prepare_command(dataset, data_dir)}")

    source = Path(source).expanduser() if source else root / "downloads" / "streets"
    if name == "streets":
        # Drawing takes seconds to minutes and a user may never ask for it, so it loads only here.
        from dpanet_jax.data.streets import write_streets

        write_streets(source, **options)
    if not source.is_dir():
        raise DataError(source, ["no such folder; --source names the folder with the files"])
    listing = list_camvid(source) if name == "camvid" else list_folder(source)
    contents, problems = check(listing, quiet=quiet)
    if listing.problems or problems:
        raise DataError(source, listing.problems + problems)

    metadata = {
        "classes": listing.classes.to_dict(),
        "fingerprint": contents.fingerprint,
        "sizes": contents.sizes,
        "source": str(source.resolve()),
        "options": options,
    }
    with _lock(target):
        _store(name, config, listing.splits, metadata, target, quiet)
    return _summary(dataset, target, already=False)


def _streets_options(given: dict) -> dict:
    from dpanet_jax.data.streets import write_streets

    parameters = list(inspect.signature(write_streets).parameters.values())[1:]
    options = {p.name: p.default for p in parameters if p.default is not p.empty}
    unknown = [name for name in given if name not in options]
    if unknown:
        raise ValueError(f"streets has no option {', '.join(unknown)}; it has {', '.join(options)}")
    return options | given


def _already_prepared(dataset: str, target: Path, source: str | Path | None, options: dict) -> Prepared:
    metadata = read_metadata(target)
    differs = []
    is_users_own = dataset.startswith("folder")
    if source is not None and is_users_own:
        if str(Path(source).expanduser().resolve()) != metadata["source"]:
            differs.append(f"from {metadata['source']}")
    # JSON has no tuples, so a size compares only after the same round trip.
    if options and json.loads(json.dumps(options)) != metadata["options"]:
        differs.append(f"with {metadata['options']}")
    if differs:
        other = ", or folder/NAME to keep both" if is_users_own else ""
        raise ValueError(
            f"{dataset} in {target} was prepared {' and '.join(differs)};"
            f" use --overwrite to replace it{other}"
        )
    return _summary(dataset, target, already=True)


def _summary(dataset: str, target: Path, already: bool) -> Prepared:
    metadata = read_metadata(target)
    return Prepared(
        dataset=dataset,
        path=target,
        already=already,
        splits={split: len(sizes) for split, sizes in metadata["sizes"].items()},
        num_classes=len(metadata["classes"]["names"]),
        fingerprint=metadata["fingerprint"],
    )


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """One process at a time: only so is a staging folder that lies there known to be dead."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"another process is preparing {target}; wait until it is done") from error
        yield


def _store(name, config, splits, metadata, target: Path, quiet: bool) -> None:
    # TFDS takes half a second to import, which a message about a wrong name need not wait for.
    import tensorflow_datasets as tfds

    from dpanet_jax.data.builders.segmentation import SegmentationBuilder

    staging, replaced = target.parent / _STAGING, target.parent / _REPLACED
    shutil.rmtree(staging, ignore_errors=True)
    _put_back(target)

    total = sum(len(pairs) for pairs in splits.values())
    try:
        with progress_bar(total=total, desc="writing", unit="image", disable=quiet) as bar, _tfds_silent():
            builder = SegmentationBuilder(
                name, splits, metadata, data_dir=staging, config=config, progress=bar.update
            )
            builder.download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
        if target.is_dir():
            target.rename(replaced)
        Path(builder.data_dir).rename(target)
    finally:
        _put_back(target)
        shutil.rmtree(staging, ignore_errors=True)


def _put_back(target: Path) -> None:
    """Undoes an overwrite cut off between its two renames; clears up after a finished one."""
    replaced = target.parent / _REPLACED
    if replaced.is_dir() and not target.is_dir():
        replaced.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def _tfds_silent() -> Iterator[None]:
    """TFDS prints its own banners and bars, and would look for its public bucket."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import gcs_utils

    tfds.disable_progress_bar()
    gcs_utils._is_gcs_disabled = True
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)
