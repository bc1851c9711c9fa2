"""The one finder of image files, which `prepare` and `predict` share."""

import os
from pathlib import Path

import pytest

from dpanet_jax.data import finder
from dpanet_jax.errors import DPANetError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_folder_gives_every_image_by_its_relative_name(tmp_path):
    touch(
        *(
            tmp_path / name
            for name in ("b.PNG", "a/c.v1.jpeg", "a/b.jpg", "notes.txt", "d.webp", "e.heic", "f.MP4")
        )
    )
    touch(tmp_path / ".hidden.png", tmp_path / ".thumbs/x.png")
    found = finder.find(tmp_path)
    assert found == {
        Path("a/b"): tmp_path / "a/b.jpg",
        Path("a/c.v1"): tmp_path / "a/c.v1.jpeg",
        Path("b"): tmp_path / "b.PNG",
        Path("d"): tmp_path / "d.webp",
        Path("e"): tmp_path / "e.heic",
        Path("f"): tmp_path / "f.MP4",
    }
    assert list(found) == sorted(found)


def test_a_file_is_found_by_its_stem(tmp_path):
    touch(tmp_path / "photo.v2.jpg")
    assert finder.find(tmp_path / "photo.v2.jpg") == {Path("photo.v2"): tmp_path / "photo.v2.jpg"}


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "elsewhere/x.png", tmp_path / "in/deep/y.png")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/deep/up").symlink_to(tmp_path / "in")
    assert list(finder.find(tmp_path / "in")) == [Path("deep/y"), Path("link/x")]


def test_two_files_of_one_name(tmp_path):
    touch(tmp_path / "x/a.jpg", tmp_path / "x/a.png")
    with pytest.raises(DPANetError, match="x/a.jpg and .*x/a.png: two files of one name"):
        finder.find(tmp_path)


def test_nothing_to_find(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(finder.NoImages, match=r"no image in it \(\.png, \.jpg") as error:
        finder.find(tmp_path)
    assert isinstance(error.value, DPANetError) and isinstance(error.value, FileNotFoundError)
    with pytest.raises(finder.NoImages, match="nowhere: no such file or folder"):
        finder.find(tmp_path / "nowhere")


def test_links_that_lead_to_each_other_end(tmp_path):
    touch(tmp_path / "a/x.png", tmp_path / "b/y.png")
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to("self")
    assert list(finder.find(tmp_path)) == [Path(n) for n in ("a/to_b/y", "a/x", "b/to_a/x", "b/y")]


def test_what_is_to_be_left_out(tmp_path):
    touch(tmp_path / "x.png", tmp_path / "out/ids/x.png", tmp_path / "other/y.png")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    left = finder.find(tmp_path, leave_out=[tmp_path / "out", tmp_path / "nowhere"])
    assert list(left) == [Path("other/y"), Path("x")]


def test_names_that_are_not_text(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    open(path, "wb").close()
    ((name, found),) = finder.find(tmp_path).items()
    assert os.fsencode(name) == b"caf\xe9" and os.fsencode(found) == path


def test_an_input_that_is_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(finder.NoImages, match="neither a file nor a folder"):
        finder.find(tmp_path / "pipe.png")
