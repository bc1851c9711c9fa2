"""Paths of the user's, and files that are written whole or not at all."""

import contextlib
import os
import stat
from pathlib import Path

import pytest

from dpanet_jax import paths
from dpanet_jax.errors import UsageError
from dpanet_jax.remote import Remote, RemoteError


def test_a_local_path_is_absolute_and_its_home_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert paths.local("~/data") == tmp_path / "home" / "data"
    assert paths.local("runs/mine") == tmp_path / "runs" / "mine"
    assert paths.local(Path("runs") / ".." / "other") == tmp_path / "other"
    assert paths.local("/somewhere/else/") == Path("/somewhere/else")
    assert paths.local("") == tmp_path


@pytest.mark.parametrize("name", ["a:b", "10:30", "run:a/b", "C:/images", "~x:y", "train[:10%]", "a//b"])
def test_a_colon_makes_no_address(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert paths.local(name) == Path(os.path.abspath(os.path.expanduser(name)))


@pytest.mark.parametrize(
    "address",
    [
        "gs://bucket/folder",
        "s3://bucket",
        "hf://owner/name",
        "file:///tmp/x",
        "https://host/x",
        "gs:/bucket/x",
    ],
)
def test_an_address_is_refused_in_one_line(address):
    with pytest.raises(UsageError) as error:
        paths.local(address)
    assert str(error.value).startswith(f"{address}: only local paths") and "\n" not in str(error.value)
    # As a Path it has lost a slash, and is none the less an address.
    with pytest.raises(UsageError, match="only local paths"):
        paths.local(Path(address))


def test_anywhere_is_a_local_path_or_an_object(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.anywhere("a/b") == tmp_path / "a/b"
    assert paths.anywhere(Path("gs://bucket/x")) == Remote("gs://bucket/x")
    assert paths.anywhere(Remote("gs://bucket/x")) == Remote("gs://bucket/x")
    for address in ("https://host/x", "memory://x", "hf://owner/name"):
        with pytest.raises(UsageError, match=f"{address}: only local paths and gs:// or s3:// addresses"):
            paths.anywhere(address)


def test_what_is_written_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("first, and longer than what comes next", "λ\n"):
        assert paths.write_text(path, text) == path
        assert path.read_bytes() == text.encode()
        assert os.listdir(path.parent) == ["file.txt"]


def test_a_writer_that_fails_leaves_the_old_content(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), paths.replacing(path) as unfinished:
        unfinished.write_text("ne")
        assert path.read_text() == "old"
        raise RuntimeError("half way")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]
    with pytest.raises(FileNotFoundError), paths.replacing(path):
        pass  # nothing was written
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_until_the_end_only_the_old_content_is_seen(tmp_path):
    path = tmp_path / "file.safetensors"
    with paths.replacing(path) as unfinished:
        assert unfinished.name == path.name and unfinished != path  # some writers go by the suffix
        assert unfinished.parent.parent == tmp_path  # renaming does not leave the file system
        unfinished.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640)])
def test_others_may_read_it_as_the_umask_says(tmp_path, umask, mode):
    """Not the owner alone, as a temporary file's rights are."""
    before = os.umask(umask)
    try:
        path = paths.write_text(tmp_path / "file.txt", "new")
        with paths.new_folder(tmp_path / "folder") as unfinished:
            (unfinished / "inside").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    """Else a machine that goes down may keep the name and lose the content."""
    happened = []

    def fsync(descriptor, real=os.fsync):
        happened.append(("flushed", os.fstat(descriptor).st_size))
        real(descriptor)

    def replace(source, target, real=os.replace):
        happened.append(("renamed", os.path.getsize(source)))
        real(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    paths.write_text(tmp_path / "file.txt", "12345")
    assert happened == [("flushed", 5), ("renamed", 5)]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "made" / "folder"
    with pytest.raises(RuntimeError, match="half way"), paths.new_folder(path) as unfinished:
        (unfinished / "one").touch()
        raise RuntimeError("half way")
    assert os.listdir(tmp_path / "made") == []
    with paths.new_folder(path) as unfinished:
        (unfinished / "one").touch()
        assert not path.exists()
    assert os.listdir(path) == ["one"] and os.listdir(path.parent) == ["folder"]


def test_a_folder_that_filled_up_meanwhile_is_left_alone(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError), paths.new_folder(path) as unfinished:
        (unfinished / "ours").touch()
        (path / "theirs").touch()
    assert os.listdir(path) == ["theirs"] and os.listdir(tmp_path) == ["folder"]


def test_an_object_is_there_when_all_of_it_is_written(bucket):
    path = Remote(f"{bucket}/folder/file.txt")
    assert paths.write_text(path, "old") == path
    with pytest.raises(RuntimeError, match="half way"), paths.replacing(path) as unfinished:
        unfinished.write_text("ne")
        raise RuntimeError("half way")
    with paths.replacing(path) as unfinished:
        assert unfinished.name == path.name
        unfinished.write_text("λ", encoding="utf-8")
        assert path.read_text() == "old"
    assert path.read_text() == "λ" and list(path.parent.files()) == [path]
    assert not unfinished.parent.exists()
    paths.remove_unfinished(path.parent)


def test_what_says_that_a_folder_is_whole_is_uploaded_last(bucket, monkeypatch):
    path, uploaded = Remote(f"{bucket}/folder"), []

    def upload(self, file, real=Remote.upload):
        real(self, file)
        uploaded.append(self.name)
        if self.name == fails:
            raise RemoteError("no network")

    monkeypatch.setattr(Remote, "upload", upload)
    for fails in ("2", "a_whole", ""):
        with pytest.raises(RemoteError) if fails else contextlib.nullcontext():
            with paths.new_folder(path, last=("nearly", "a_whole")) as unfinished:
                (unfinished / "below").mkdir()
                for name in ("a_whole", "nearly", "1", "below/2"):
                    (unfinished / name).write_text(name)
                assert not path.exists()
        assert not fails or path.files() == {}, "what was cut short is removed"
    assert uploaded[-4:] == ["1", "2", "nearly", "a_whole"]
    assert (path / "below/2").read_text() == "below/2"
    with pytest.raises(FileExistsError), paths.new_folder(path) as unfinished:
        (unfinished / "other").touch()
    assert len(path.files()) == 4


def test_a_folder_is_replaced_moved_and_removed(bucket, tmp_path):
    for path in (Remote(f"{bucket}/folder"), tmp_path / "folder"):
        for names in (("old", "both"), ("both", "new")):
            with paths.replacing_folder(path) as unfinished:
                for name in names:
                    (unfinished / name).touch()
        assert [child.name for child in sorted(path.iterdir())] == ["both", "new"]
        moved = path.with_name("moved")
        paths.move_folder(path, moved, ("new",))
        assert [child.name for child in sorted(moved.iterdir())] == ["both", "new"] and not path.exists()
        paths.remove_folder(moved)
        assert not moved.exists()


def test_a_copy_is_made_once_of_each_content(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    downloads = []

    def download(self, file, real=Remote.download):
        downloads.append(str(self))
        real(self, file)

    monkeypatch.setattr(Remote, "download", download)
    path = Remote(f"{bucket}/weights.pth")
    for content in (b"first", b"second"):
        path.write_bytes(content)
        copies = [paths.fetched(path) for _ in range(2)]
        assert copies[0] == copies[1] and copies[0].read_bytes() == content
        assert copies[0].name == "weights.pth" and tmp_path / "cache/dpanet_jax" in copies[0].parents
    assert len(downloads) == 2
    assert paths.fetched(tmp_path / "local") == tmp_path / "local"
    with pytest.raises(FileNotFoundError):
        paths.fetched(Remote(f"{bucket}/nothing"))


def test_whether_one_may_write_is_tried(bucket):
    folder = Remote(f"{bucket}/folder")
    paths.require_writable(folder)
    assert not folder.exists(), "nothing is left"
    with pytest.raises(RemoteError, match="no-such-bucket/x/.*no such bucket"):
        paths.require_writable(Remote("gs://no-such-bucket/x"))
