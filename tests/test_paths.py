"""Paths of the user's, and files that are written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from dpanet_jax import paths
from dpanet_jax.errors import UsageError


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
