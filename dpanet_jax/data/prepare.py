"""The verb `prepare`: check a source from end to end, then store it once as TFDS ArrayRecord.

    python -m dpanet_jax prepare --dataset=camvid --source=DIR
    python -m dpanet_jax prepare --dataset=folder --source=DIR        (or folder/NAME)
    python -m dpanet_jax prepare --dataset=streets                    (drawn, needs no source)

Everything is written under a staging folder beside its place and renamed when it is complete, so a
data set is either whole or not there. One for a bucket is written to a temporary folder, and uploaded when it
is complete, `metadata.json` last: without that, it is not there.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging as absl_logging

from dpanet_jax import options as options_lib
from dpanet_jax import paths
from dpanet_jax.data.archives import File
from dpanet_jax.data.census import print_table
from dpanet_jax.data.check import check_source
from dpanet_jax.data.datasets import DATASETS
from dpanet_jax.data.encoding import Encoding
from dpanet_jax.data.listing import DataError, DataSet, Listing
from dpanet_jax.data.location import (
    dataset_dir,
    is_prepared,
    prepare_command,
    read_metadata,
    resolve_data_dir,
    split_name,
)
from dpanet_jax.data.published import Published
from dpanet_jax.errors import DPANetError, UsageError
from dpanet_jax.leases import Held, Lease
from dpanet_jax.paths import AnyPath, PathLike, Remote
from dpanet_jax.progress import is_main_process, message, progress_bar

_STAGING = ".incomplete"
_REPLACED = ".replaced"


class PreparedElsewhere(DPANetError, BlockingIOError):
    """Another process prepares the same data set at the moment."""


class NotWritten(DPANetError, OSError):
    """The disk is full, or would not take the records for another reason that the text names."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `prepare` did: `str()` of it is the line to print.

    already: nothing was written, the data set was there. splits: examples by split. unlabelled: the splits
    without labels. pixels: {split: {"classes": labelled pixels of each class, "ignored": pixels}}; None for a
    data set of before they were counted. notes: what is odd in the source and may be meant. encoding: how the
    images are stored.
    """

    dataset: str
    path: AnyPath
    already: bool
    splits: dict[str, int]
    unlabelled: tuple[str, ...]
    class_names: tuple[str, ...]
    fingerprint: str
    pixels: Mapping[str, Mapping[str, Any]] | None = None
    notes: tuple[str, ...] = ()
    encoding: Encoding = Encoding()

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def __str__(self) -> str:
        counts = ", ".join(
            f"{count} {split}" + " (without labels)" * (split in self.unlabelled)
            for split, count in self.splits.items()
        )
        state = "is already prepared" if self.already else "prepared"
        form = "" if self.encoding == Encoding() else f", images as {self.encoding}"
        hint = "; --overwrite prepares it anew" if self.already else ""
        return f"{self.dataset} {state}: {counts}, {self.num_classes} classes{form}, in {self.path}{hint}"


def prepare(
    dataset: str,
    data_dir: PathLike | None = None,
    source: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    *,
    quiet: bool = False,
    store: str | None = None,
    store_quality: int | None = None,
    **options: Any,
) -> Prepared:
    """Checks a whole source, then stores it under `data_dir` in the form that `open_split` reads.

    dataset: a name in `datasets.DATASETS`, such as "streets", "camvid" or "folder"; "folder/NAME" keeps
    several apart. data_dir: TFDS's default without it. source: the local folder with the files; for streets,
    where its images are kept (default data_dir/downloads/streets, or the cache where data_dir is in a
    bucket). options: those of the data set, such as num_train, num_val, size and seed of streets, or
    image_suffix and label_suffix of a folder. overwrite: replace what is there, once the new one is complete
    (in a bucket, it is not there while the new one is uploaded). quiet: print nothing; else a table of the
    labelled pixels by class and split, and the notes. store and store_quality: the fields of `Encoding`.

    Raises DataError (a ValueError) that lists all that is wrong with the source, before anything is
    written; UsageError (a ValueError) for an unknown data set or option, or when the folder that is prepared
    came from another source, the streets from other options, or its images are stored in another form than
    asked for; PreparedElsewhere (a BlockingIOError) when another process prepares the same data set;
    NotWritten (an OSError) where the disk is full.
    """
    name, config = split_name(dataset)
    kind = DATASETS[name]
    chosen = _read_options(dataset, kind, options)
    form = {"store": store, "store_quality": store_quality}
    form = {key: value for key, value in form.items() if value is not None}
    encoding = options_lib.read(Encoding, form, f"{dataset}: ")
    root = resolve_data_dir(data_dir)
    files = paths.local(source) if source else None
    target = dataset_dir(dataset, root)
    if isinstance(target, Path) and (target.parent / _REPLACED).is_dir():
        with _lock(target):
            _put_back(target)
    if is_prepared(target) and not overwrite:
        given = {key: chosen[key] for key in options}
        asked = chosen if kind.draw and given else given
        prepared = _already_prepared(dataset, target, files, asked, encoding if form else None)
        _show(prepared, quiet)
        return prepared
    if files is None and kind.needs_source:
        raise UsageError(f"{dataset} needs its files: {prepare_command(dataset, data_dir)}")

    files = files or (root if isinstance(root, Path) else paths.cache_folder()) / "downloads" / name
    paths.require_writable(target.parent)
    if kind.draw is not None:
        kind.draw(files, kind.options and kind.options(**chosen), quiet)
    if not files.is_dir():
        raise DataError(files, [_no_folder(files, kind)])
    takes_options = kind.options is not None and kind.draw is None
    listing = kind.list_source(files, *([kind.options(**chosen)] if takes_options and kind.options else []))
    contents, problems = check_source(listing, encoding, quiet=quiet)
    if listing.problems or problems:
        raise DataError(files, listing.problems + problems)

    metadata = {
        "classes": listing.classes.to_dict(),
        "fingerprint": contents.fingerprint,
        "sizes": contents.sizes,
        "unlabelled": listing.unlabelled(),
        "source": str(files.resolve()),
        "options": chosen,
        "encoding": dataclasses.asdict(encoding),
        "pixels": contents.census.pixels(),
        "notes": contents.census.notes(),
    }
    if isinstance(target, Path):
        with _lock(target):
            _store(name, config, listing, encoding, contents.rewritten, metadata, target, quiet)
    else:
        with _lease(target), tempfile.TemporaryDirectory(prefix="dpanet_jax_") as here:
            made = Path(here, target.parent.name, target.name)
            _store(name, config, listing, encoding, contents.rewritten, metadata, made, quiet)
            # While it is replaced, it is not there.
            paths.remove_folder(target, first=("metadata.json",))
            paths.upload_folder(made, target, last=("metadata.json",))
    prepared = _summary(dataset, target, already=False)
    _show(prepared, quiet)
    return prepared


def _no_folder(source: Path, kind: DataSet) -> str:
    if not source.is_file():
        return "no such folder; --source names the folder with the files"
    if kind.options is not None and issubclass(kind.options, Published):
        return f"a file; name the folder that it is in, with --source={source.parent}"
    return "a file; unpack it, and name the folder with --source"


def _show(prepared: Prepared, quiet: bool) -> None:
    """The table of pixels and the notes, from the main process; nothing where `quiet`."""
    if quiet or not is_main_process():
        return
    if prepared.pixels:
        print_table(prepared.class_names, prepared.pixels, f"{prepared.dataset}: labelled pixels")
    for note in prepared.notes:
        print(f"note: {note.encode('utf-8', 'backslashreplace').decode()}")


def _read_options(dataset: str, kind: DataSet, given: Mapping[str, Any]) -> dict[str, Any]:
    """{name: value} of all options of a data set, those given and the others' defaults."""
    if kind.options is None:
        if given:
            raise UsageError(f"{dataset} takes no option {', '.join(given)}")
        return {}
    return dataclasses.asdict(options_lib.read(kind.options, given, f"{dataset}: "))


def _already_prepared(
    dataset: str,
    target: AnyPath,
    source: Path | None,
    options: Mapping[str, Any],
    encoding: Encoding | None,
) -> Prepared:
    metadata = read_metadata(target)
    name = split_name(dataset)[0]
    differs = []
    # A data set that all the world has is the same wherever its files lie.
    is_users_own = DATASETS[name].has_configs
    if source is not None and is_users_own and str(source.resolve()) != metadata["source"]:
        differs.append(f"from {metadata['source']}")
    # A data set that was prepared before there was an option has its default.
    kind = DATASETS[name]
    defaults = dataclasses.asdict(kind.options()) if kind.options else {}
    stored = {key: metadata["options"].get(key, defaults.get(key)) for key in options}
    # JSON has no tuples, so a size compares only after the same round trip.
    if json.loads(json.dumps(options)) != stored:
        differs.append(f"with {stored}")
    if encoding is not None and encoding != (has := Encoding(**metadata["encoding"])):
        differs.append(f"with images as {has}")
    if differs:
        other = f", or {name}/NAME to keep both" if is_users_own else ""
        raise UsageError(
            f"{dataset} in {target} was prepared {' and '.join(differs)};"
            f" use --overwrite to replace it{other}"
        )
    return _summary(dataset, target, already=True)


def _summary(dataset: str, target: AnyPath, already: bool) -> Prepared:
    metadata = read_metadata(target)
    return Prepared(
        dataset=dataset,
        path=target,
        already=already,
        splits={split: len(sizes) for split, sizes in metadata["sizes"].items()},
        unlabelled=tuple(metadata["unlabelled"]),
        class_names=tuple(metadata["classes"]["names"]),
        fingerprint=metadata["fingerprint"],
        pixels=metadata["pixels"],
        notes=tuple(metadata["notes"]),
        encoding=Encoding(**metadata["encoding"]),
    )


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """One process at a time: only so is a staging folder that lies there known to be dead."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PreparedElsewhere(
                f"another process is preparing {target}; wait until it is done"
            ) from error
        yield


@contextlib.contextmanager
def _lease(target: Remote) -> Iterator[None]:
    """`_lock`, in a bucket. Of the kinds of stores, Google's alone was tried."""
    if target.scheme != "gs":
        yield
        return
    try:
        with Lease(target.parent, tell=message):
            yield
    except Held as error:
        raise PreparedElsewhere(
            f"another process ({error.holder}) is preparing {target}; wait until it is done"
        ) from error


def _store(
    name: str,
    config: str | None,
    listing: Listing,
    encoding: Encoding,
    rewritten: frozenset[File],
    metadata: dict[str, Any],
    target: Path,
    quiet: bool,
) -> None:
    # TFDS takes half a second to import, which a message about a wrong name need not wait for.
    import tensorflow_datasets as tfds

    from dpanet_jax.data.storage import SegmentationBuilder

    staging, replaced = target.parent / _STAGING, target.parent / _REPLACED
    shutil.rmtree(staging, ignore_errors=True)
    _put_back(target)

    total = sum(len(pairs) for pairs in listing.splits.values())
    try:
        with progress_bar(total=total, desc="writing", unit="image", disable=quiet) as bar, _tfds_silent():
            builder = SegmentationBuilder(
                name,
                listing.splits,
                listing.meaning(),
                encoding,
                rewritten,
                metadata,
                data_dir=staging,
                config=config,
                progress=bar.update,
            )
            try:
                builder.download_and_prepare(
                    file_format="array_record",
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                )
            except RuntimeError as error:
                # ArrayRecord has no type of its own for what the system says: only its words tell.
                reason = re.search(r"(?:write|open|close|fsync)\(\) failed: ([^;]*)", str(error))
                if reason is None:
                    raise
                raise NotWritten(f"{target}: not written ({reason[1]}); nothing of it is left") from error
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
