"""What each data set finds in a source, and what it says is wrong with it."""

import pytest

from dpanet_jax.data.datasets.camvid import list_camvid
from dpanet_jax.data.datasets.folder import list_folder
from dpanet_jax.data.listing import DataError


def names(listing):
    return {split: [pair.name for pair in pairs] for split, pairs in listing.splits.items()}


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_takes_png_and_jpeg(tmp_path, make_camvid, suffix):
    listing = list_camvid(make_camvid(tmp_path, suffix=suffix))
    assert listing.problems == []
    assert {split: len(found) for split, found in names(listing).items()} == {
        "train": 5,
        "val": 3,
        "test": 2,
    }
    assert listing.splits["val"][1].image == tmp_path / "val" / f"0001{suffix}"
    assert listing.splits["val"][1].label == tmp_path / "valannot" / "0001.png"


def test_camvid_needs_train_and_val_but_not_test(tmp_path, make_camvid):
    listing = list_camvid(make_camvid(tmp_path, counts=(("train", 1),)))
    assert listing.problems == [
        f"{tmp_path / 'val'}: no such folder",
        f"{tmp_path / 'valannot'}: no such folder",
    ]


def test_split_folders_are_matched_by_relative_name(tmp_path, make_folder, save):
    make_folder(tmp_path, counts=(("train", 1), ("val", 1)))
    save(tmp_path / "images/train/a/b.v1.JPG", tmp_path / "labels/train/a/b.v1.png", seed=1)
    save(tmp_path / "images/train/.hidden.png", tmp_path / "labels/train/.thumbs/x.png", seed=1)
    listing = list_folder(tmp_path)
    assert listing.problems == []
    assert names(listing) == {"train": ["0000", "a/b.v1"], "val": ["0000"]}
    assert listing.classes.names == ("road", "sky", "car")


def test_lone_files_are_named_either_way(tmp_path, make_folder):
    make_folder(tmp_path)
    (tmp_path / "labels/train/0001.png").unlink()
    (tmp_path / "images/val/0002.png").unlink()
    assert list_folder(tmp_path).problems == [
        f"{tmp_path / 'images/train/0001.png'}: image without a label",
        f"{tmp_path / 'labels/val/0002.png'}: label without an image",
    ]


def test_two_images_of_one_name(tmp_path, make_folder):
    make_folder(tmp_path)
    (tmp_path / "images/train/0001.jpg").write_bytes(b"")
    (problem,) = list_folder(tmp_path).problems
    assert "0001.jpg and" in problem and "0001.png: two files of one name" in problem


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split(tmp_path, make_folder, split):
    make_folder(tmp_path)
    for kind in ("images", "labels"):
        for path in (tmp_path / kind / split).iterdir():
            path.unlink()
    (problem,) = list_folder(tmp_path).problems
    assert problem == f"{tmp_path / 'images' / split}: no image in it, so the split is empty"


def test_a_missing_split_folder(tmp_path, make_folder):
    make_folder(tmp_path, counts=(("train", 2),))
    problems = list_folder(tmp_path).problems
    assert len(problems) == 2
    assert str(tmp_path / "images/val") in problems[0] and "val.txt" in problems[0]


def flat_folder(root, make_folder, save):
    make_folder(root, counts=())
    for i in range(5):
        save(root / f"images/x/{i}.png", root / f"labels/x/{i}.png", seed=i)
    (root / "train.txt").write_text("x/2.png\nx/0\n\n  x/1.png \n")
    (root / "val.txt").write_text("x/3\n")
    return root


def test_lists_name_files_with_or_without_suffix(tmp_path, make_folder, save):
    listing = list_folder(flat_folder(tmp_path, make_folder, save))
    assert listing.problems == []
    assert names(listing) == {"train": ["x/0", "x/1", "x/2"], "val": ["x/3"]}


def test_lists_that_name_wrong_files(tmp_path, make_folder, save):
    flat_folder(tmp_path, make_folder, save)
    (tmp_path / "labels/x/1.png").unlink()
    (tmp_path / "val.txt").write_text("x/9.jpg\nx/3\nx/3\nx/2\n")
    problems = list_folder(tmp_path).problems
    assert len(problems) == 4
    assert "image without a label (named in" in problems[0] and "line 4" in problems[0]
    assert "val.txt, line 1: no image" in problems[1]
    assert "val.txt, line 3: x/3 is already in" in problems[2]
    assert "val.txt, line 4: x/2 is already in" in problems[3] and "train.txt" in problems[3]


def test_empty_and_missing_lists(tmp_path, make_folder, save):
    flat_folder(tmp_path, make_folder, save)
    (tmp_path / "train.txt").write_text("\n")
    (tmp_path / "val.txt").unlink()
    assert list_folder(tmp_path).problems == [
        f"{tmp_path / 'train.txt'}: no name in it, so the split is empty",
        f"{tmp_path / 'val.txt'}: no such file, while another split has a list",
    ]


def test_a_folder_without_its_parts(tmp_path):
    with pytest.raises(DataError) as error:
        list_folder(tmp_path)
    message = str(error.value)
    for name in ("images", "labels", "classes.csv"):
        assert f"{tmp_path / name}: no such" in message


def test_a_wrong_classes_file_is_one_of_the_problems(tmp_path, make_folder):
    make_folder(tmp_path)
    (tmp_path / "classes.csv").write_text("name,red,green,blue\nroad,1,2\n")
    with pytest.raises(DataError, match="classes.csv, line 2: 3 values"):
        list_folder(tmp_path)
