"""Data sets in a bucket: prepared there whole or not at all, and read from a copy that is made once."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpanet_jax.data import prepare as prepare_lib
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.location import DatasetNotFound
from dpanet_jax.data.prepare import PreparedElsewhere, prepare
from dpanet_jax.data.split import open_split
from dpanet_jax.errors import UsageError
from dpanet_jax.leases import Lease
from dpanet_jax.paths import upload_folder
from dpanet_jax.remote import Remote, RemoteError

SMALL: dict[str, Any] = {"num_train": 3, "num_val": 2, "size": (16, 32), "quiet": True}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/dpanet_jax"


@pytest.fixture
def there(bucket: str, streets_dir: Path) -> str:
    """A data_dir in a bucket with a copy of the small streets."""
    folder = streets_dir / "streets/1.0.0"
    upload_folder(folder, Remote(f"{bucket}/data/streets/1.0.0"), last=("metadata.json",))
    return f"{bucket}/data"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are copied."""
    names: list[str] = []

    def download(self: Remote, path: Path, real=Remote.download) -> None:
        names.append(self.name)
        real(self, path)

    monkeypatch.setattr(Remote, "download", download)
    return names


def same(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs) and ours.fingerprint == theirs.fingerprint
    for i in range(len(ours)):
        for key in ("image", "label", "name"):
            np.testing.assert_array_equal(ours[i][key], theirs[i][key])


def test_a_split_is_copied_once_and_reads_as_at_home(
    there: str, streets_dir: Path, downloads: list[str]
) -> None:
    for _ in range(2):
        same(open_split("streets", "val", there), open_split("streets", "val", streets_dir))
    records = [name for name in downloads if not name.endswith(".json")]
    assert records == ["streets-val.array_record-00000-of-00001"] and len(downloads) == 4
    same(open_split("streets", "train[1:3]+val", there), open_split("streets", "train[1:3]+val", streets_dir))
    assert len(downloads) == 5


def test_what_of_a_copy_is_not_whole_is_copied_again(there: str, cache: Path, downloads: list[str]) -> None:
    whole = open_split("streets", "val", there)
    (record,) = cache.glob("data/*/*/*val*")
    record.write_bytes(record.read_bytes()[:-1])
    (record.parent / ".writing.dead").mkdir()
    same(open_split("streets", "val", there), whole)
    assert downloads[4:] == [record.name] and not (record.parent / ".writing.dead").exists()


def test_a_copy_that_is_damaged_is_to_be_removed(there: str, cache: Path) -> None:
    split = open_split("streets", "val", there)
    (record,) = cache.glob("data/*/*/*val*")
    record.write_bytes(bytes(record.stat().st_size))
    with pytest.raises(DataError, match=f"{record.parent}: .*; remove this copy, and run again"):
        open_split("streets", "val", there)[0]
    assert split.labelled


def test_many_at_once_copy_once(there: str, downloads: list[str]) -> None:
    start, failed = threading.Barrier(4), []

    def read() -> None:
        start.wait()
        try:
            open_split("streets", "val", there)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(downloads) == 4


def test_a_copy_that_fails_leaves_no_half_of_a_file(
    there: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: Remote, path: Path, real=Remote.download) -> None:
        real(self, path)
        if "array_record" in self.name:
            raise RemoteError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "download", download)
        with pytest.raises(RemoteError, match="no network"):
            open_split("streets", "val", there)
    assert not list(cache.rglob("*array_record*"))
    assert len(open_split("streets", "val", there)) == 5


def test_what_is_prepared_in_a_bucket_is_what_is_prepared_here(bucket: str, tmp_path: Path) -> None:
    ours = prepare("streets", f"{bucket}/data", **SMALL)
    theirs = prepare("streets", tmp_path / "here", **SMALL)
    assert str(ours.path) == f"{bucket}/data/streets/1.0.0" and ours.splits == theirs.splits
    here = {path.name: path.stat().st_size for path in theirs.path.iterdir()}
    there = {path.name: size for path, size in Remote(f"{bucket}/data").files().items()}
    assert there.keys() == here.keys()
    assert prepare("streets", f"{bucket}/data", **SMALL).already
    for split in ("train", "val"):
        same(open_split("streets", split, f"{bucket}/data"), open_split("streets", split, tmp_path / "here"))
    with pytest.raises(UsageError, match="was prepared with"):
        prepare("streets", f"{bucket}/data", **(SMALL | {"num_train": 4}))
    changed = SMALL | {"num_train": 4}
    prepare("streets", f"{bucket}/data", tmp_path / "source", overwrite=True, **changed)
    assert len(open_split("streets", "train", f"{bucket}/data")) == 4, "the copy of before is not read"


def test_until_all_of_it_is_there_it_is_not_prepared(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def upload(self: Remote, path: Path, real=Remote.upload) -> None:
        with pytest.raises(DatasetNotFound, match=f"not prepared in {bucket}/data/streets/1.0.0; run: "):
            open_split("streets", "val", f"{bucket}/data")
        real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "upload", upload)
        prepare("streets", f"{bucket}/data", **SMALL)
        patch.undo()
    assert len(open_split("streets", "val", f"{bucket}/data")) == 2


def test_two_do_not_prepare_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpanet_jax.leases.BEAT", 0.05)
    monkeypatch.setattr(prepare_lib, "message", lambda text: None)
    with Lease(Remote(f"{bucket}/data/streets"), lambda text: None):
        with pytest.raises(
            PreparedElsewhere, match=r"another process \(process \d+ on \S+\) is preparing gs://"
        ):
            prepare("streets", f"{bucket}/data", **SMALL)
    assert not Remote(f"{bucket}/data").exists()


def test_a_bucket_that_is_away_is_not_called_unprepared(gcs_server: str) -> None:
    with pytest.raises(RemoteError, match="no such bucket"):
        prepare("streets", "gs://no-such-bucket/data", **SMALL)
