"""Objects of a bucket as paths: their names, what is read and written, and what is said where that fails."""

import importlib.util
import urllib.parse
import urllib.request
from pathlib import Path, PurePosixPath

import pytest

from dpanet_jax.errors import UsageError
from dpanet_jax.remote import Remote, RemoteError


def put(server: str, address: str, content: bytes) -> None:
    """Writes an object by the server's own protocol: another client, which ours knows nothing of."""
    bucket, _, name = address.removeprefix("gs://").partition("/")
    url = f"{server}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={urllib.parse.quote(name, safe='')}"
    urllib.request.urlopen(urllib.request.Request(url, data=content, method="POST")).close()


def test_it_is_named_like_a_path():
    path = Remote("gs:/bucket//a/./b.tar.gz")
    assert str(path) == "gs://bucket/a/b.tar.gz" and path == Remote("GS://bucket/a/b.tar.gz")
    assert (path.name, path.suffix, path.stem) == ("b.tar.gz", ".gz", "b.tar")
    assert str(path.parent / PurePosixPath("c/d")) == "gs://bucket/a/c/d"
    assert str(path.with_name("x")) == "gs://bucket/a/x"
    assert path.relative_to(Remote("gs://bucket/a")) == PurePosixPath("b.tar.gz")
    assert Remote("gs://bucket").parent == Remote("gs://bucket")
    assert len({path, Remote("gs://bucket/a/b.tar.gz")}) == 1 and path != "gs://bucket/a/b.tar.gz"
    assert sorted([path, Remote("gs://bucket/a")])[1] is path


@pytest.mark.parametrize("address", ["gs://", "gs:///", "gs://bucket/../other", "bucket/a"])
def test_what_names_no_object_is_refused(address):
    with pytest.raises(UsageError):
        Remote(address)


def test_a_driver_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for scheme, driver, extra in (("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")):
        with pytest.raises(UsageError) as error:
            Remote(f"{scheme}://bucket/x")
        assert str(error.value) == (
            f"{scheme}://bucket/x: needs {driver}, which is not installed: pip install 'dpanet_jax[{extra}]' "
            f"(or: pip install {driver})"
        )


def test_nothing_takes_it_for_a_local_path():
    """Else `open` would look for a folder called "gs:"."""
    for function in (open, Path):
        with pytest.raises(TypeError):
            function(Remote("gs://bucket/x"))


def test_objects_are_written_whole_and_read(bucket, tmp_path):
    path = Remote(f"{bucket}/run/note.txt")
    assert not path.exists() and not path.parent.is_dir() and path.parent.files() == {}
    path.write_bytes("λ\n".encode())
    assert path.read_text() == "λ\n" and path.read_bytes(1) == b"\xce"
    assert path.is_file() and not path.is_dir() and path.parent.is_dir() and not path.parent.is_file()
    assert Remote(bucket).is_dir()
    before = path.identity()
    assert path.identity() == before
    path.write_bytes(b"other")
    assert path.identity() != before and path.size() == 5
    with path.open() as file:
        file.seek(2)
        assert file.read() == b"her"

    (tmp_path / "new").write_bytes(b"from here")
    path.upload(tmp_path / "new")
    path.download(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"from here"

    path.unlink()
    for act in (
        path.unlink,
        path.read_bytes,
        path.size,
        path.identity,
        lambda: path.download(tmp_path / "x"),
    ):
        with pytest.raises(FileNotFoundError) as error:
            act()
        assert str(error.value) == f"[Errno 2] No such file or directory: '{path}'"
    path.unlink(missing_ok=True)


def test_a_folder_is_what_lies_below(bucket, gcs_server):
    folder = Remote(f"{bucket}/data")
    put(gcs_server, f"{folder}/", b"")  # As a console makes a folder.
    for name in ("b", "a/2", "a/1"):
        (folder / name).write_bytes(name.encode())
    put(gcs_server, f"{folder}-of-another/c", b"")
    assert [str(path) for path in folder.iterdir()] == [f"{folder}/a", f"{folder}/b"]
    assert folder.files() == {folder / "a/1": 3, folder / "a/2": 3, folder / "b": 1}
    (folder / "a/1").copy_to(folder / "copy")
    assert (folder / "copy").read_bytes() == b"a/1"
    folder.remove_below()
    assert folder.files() == {} and Remote(f"{folder}-of-another/c").exists()
    folder.remove_below()
    with pytest.raises(FileNotFoundError):
        list(Remote(f"{bucket}/nothing").iterdir())


def test_what_others_write_is_seen(bucket, gcs_server):
    folder = Remote(f"{bucket}/run")
    (folder / "1").write_bytes(b"")
    assert [path.name for path in folder.iterdir()] == ["1"]
    put(gcs_server, f"{folder}/2", b"")
    assert [path.name for path in folder.iterdir()] == ["1", "2"] and len(folder.files()) == 2


def test_a_bucket_that_is_not_there(gcs_server, tmp_path):
    path = Remote("gs://no-such-bucket/x")
    assert not path.exists()
    with pytest.raises(RemoteError, match="^gs://no-such-bucket/x: cannot be written .*no such bucket"):
        path.write_bytes(b"")


def test_a_store_that_is_away_is_not_taken_for_an_empty_one(bucket, monkeypatch):
    from gcsfs import GCSFileSystem

    path = Remote(f"{bucket}/x")
    path.write_bytes(b"")

    async def away(*_, **__):
        raise ValueError("the driver's own\nkind of error")

    monkeypatch.setattr(GCSFileSystem, "_call", away)
    for act in (path.exists, path.is_dir, path.files, path.read_bytes, lambda: path.write_bytes(b"")):
        with pytest.raises(
            RemoteError, match=rf"^{path}: cannot be .*ValueError: the driver's own kind"
        ) as error:
            act()
        assert "\n" not in str(error.value)


def test_a_download_that_is_cut_short_is_none(bucket, tmp_path, monkeypatch):
    path = Remote(f"{bucket}/x")
    path.write_bytes(b"12345")
    monkeypatch.setattr(Remote, "size", lambda self: 6)
    with pytest.raises(RemoteError, match="came with 5 bytes"):
        path.download(tmp_path / "x")
