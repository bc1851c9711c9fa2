"""Names of images and labels that differ: by a suffix, a capital, a normal form; and files of other kinds."""

import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data import pairing
from dpanet_jax.data.datasets.camvid import list_camvid
from dpanet_jax.data.datasets.folder import list_folder
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.pairing import Suffixes


def rename(folder, change):
    for path in sorted(folder.rglob("*.png")):
        path.rename(path.with_name(change(path.stem) + path.suffix))


def names(listing):
    return {split: [pair.name for pair in pairs] for split, pairs in listing.splits.items()}


ALL = {"train": [f"{i:04}" for i in range(5)], "val": [f"{i:04}" for i in range(3)]}


@pytest.mark.parametrize("given", ["_mask", "_mask.png", "_mask.PNG"])
def test_labels_with_a_suffix(tmp_path, make_folder, given):
    make_folder(tmp_path)
    rename(tmp_path / "labels", lambda stem: stem + "_mask")
    (problem,) = list_folder(tmp_path).problems[:1]
    assert problem == (
        "labels end in _mask, in 5 of 5 (such as 0000 and 0000_mask): give --label_suffix=_mask"
    )
    assert len(list_folder(tmp_path).problems) == 2, "one for each split"
    listing = list_folder(tmp_path, Suffixes(label_suffix=given))
    assert listing.problems == [] and names(listing) == ALL


def test_cityscapes_names(tmp_path, make_folder):
    make_folder(tmp_path)
    rename(tmp_path / "images", lambda stem: f"a_{stem}_leftImg8bit")
    for path in sorted((tmp_path / "labels").rglob("*.png")):
        for kind in ("color", "instanceIds", "labelIds"):
            shutil.copy(path, path.with_name(f"a_{path.stem}_gtFine_{kind}.png"))
        path.unlink()
    problems = list_folder(tmp_path).problems
    assert len(problems) == 2 and "give --image_suffix=_leftImg8bit --label_suffix=_gtFine_" in problems[0]
    listing = list_folder(tmp_path, Suffixes("_leftImg8bit", "_gtFine_labelIds"))
    assert listing.problems == []
    assert names(listing)["val"] == ["a_0000", "a_0001", "a_0002"]


def test_labels_beside_the_images(tmp_path, make_folder):
    """As Roboflow writes them."""
    make_folder(tmp_path)
    rename(tmp_path / "labels", lambda stem: stem + "_mask")
    for path in (tmp_path / "labels").rglob("*.png"):
        path.rename(tmp_path / "images" / path.parent.name / path.name)
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(
        DataError, match="labels that end in _mask lie among the images: give --label_suffix=_mask"
    ):
        list_folder(tmp_path)
    listing = list_folder(tmp_path, Suffixes(label_suffix="_mask"))
    assert listing.problems == [] and names(listing) == ALL
    assert listing.splits["train"][0].label == tmp_path / "images/train/0000_mask.png"


def test_a_suffix_that_no_name_has(tmp_path, make_folder):
    make_folder(tmp_path)
    problems = list_folder(tmp_path, Suffixes(label_suffix="_mask")).problems
    assert f"{tmp_path / 'labels/train'}: no name of the 5 files in it ends in _mask" in problems


def test_few_names_that_fit_are_no_pattern(tmp_path, make_folder):
    make_folder(tmp_path)
    label = tmp_path / "labels/train/0001.png"
    for i in range(1, 5):
        (tmp_path / f"labels/train/000{i}.png").rename(tmp_path / f"labels/train/{i}x.png")
    (tmp_path / "labels/train/1x.png").rename(label.with_stem("0001_mask"))
    problems = list_folder(tmp_path).problems
    assert not any("--label_suffix" in problem for problem in problems) and len(problems) == 8


def test_camvid_as_it_was_published_first(tmp_path, make_camvid):
    make_camvid(tmp_path)
    for split in ("train", "val", "test"):
        rename(tmp_path / f"{split}annot", lambda stem: stem + "_L")
    assert "give --label_suffix=_L" in list_camvid(tmp_path).problems[0]
    assert list_camvid(tmp_path, Suffixes(label_suffix="_L")).problems == []


def test_normal_forms_are_one_name_and_capitals_are_not(tmp_path, make_folder):
    """A folder that was packed on macOS has its accents apart."""
    make_folder(tmp_path)
    for kind, form in (("images", "NFC"), ("labels", "NFD")):
        path = tmp_path / kind / "train/0000.png"
        path.rename(path.with_stem(unicodedata.normalize(form, "caf\u00e9")))
    listing = list_folder(tmp_path)
    assert listing.problems == [] and "caf\u00e9" in names(listing)["train"]
    path = tmp_path / "images/train/0001.png"
    path.rename(path.with_name("X.png"))
    (tmp_path / "labels/train/0001.png").rename(tmp_path / "labels/train/x.png")
    assert [problem.partition(": ")[2] for problem in list_folder(tmp_path).problems] == [
        "image without a label; x differs in capitals alone",
        "label without an image; X differs in capitals alone",
    ]


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (
            ".jpg",
            "a label must be PNG, BMP or TIFF, which keep every pixel as it was; JPEG and WebP change ids",
        ),
        (".webp", "a label must be PNG, BMP or TIFF"),
        (".json", "outlines or text, where a label is a picture"),
        (".gif", "a label must be a picture: PNG, BMP or TIFF"),
        (".npy", "a label must be a picture: PNG, BMP or TIFF"),
    ],
)
def test_a_label_of_another_kind_is_named(tmp_path, make_folder, suffix, words):
    make_folder(tmp_path)
    path = tmp_path / "labels/train/0000.png"
    path.rename(path.with_suffix(suffix))
    (problem,) = list_folder(tmp_path).problems
    assert problem.startswith(f"{path.with_suffix(suffix)}: {words}")


@pytest.mark.parametrize(("suffix", "kind"), [(".gif", "GIF"), (".HEIC", "HEIC"), (".jp2", "JPEG 2000")])
def test_an_image_of_another_kind_is_named(tmp_path, make_folder, suffix, kind):
    make_folder(tmp_path)
    path = tmp_path / "images/train/0000.png"
    path.rename(path.with_suffix(suffix))
    assert list_folder(tmp_path).problems == [
        f"{path.with_suffix(suffix)}: {kind} is not read; save it as PNG"
    ]


def test_labels_of_test_as_jpeg_are_not_taken_for_none(tmp_path, make_folder):
    make_folder(tmp_path, counts=(("train", 2), ("val", 1), ("test", 1)))
    path = tmp_path / "labels/test/0000.png"
    path.rename(path.with_suffix(".jpg"))
    (problem,) = list_folder(tmp_path).problems
    assert "labels/test/0000.jpg: a label must be PNG" in problem


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".TIFF", ".webp"])
def test_images_of_other_suffixes_are_found(tmp_path, make_folder, suffix):
    make_folder(tmp_path)
    for path in (tmp_path / "images").rglob("*.png"):
        path.rename(path.with_suffix(suffix))
    assert list_folder(tmp_path).problems == []


LAYOUTS = {
    ("JPEGImages", "SegmentationClass"): "as Pascal VOC: rename JPEGImages to images",
    ("SegmentationClass",): "as CVAT writes it: ",
    ("img_dir", "ann_dir"): "as for mmsegmentation: rename img_dir to images",
    ("leftImg8bit", "gtFine"): "as Cityscapes: .*--image_suffix=_leftImg8bit",
    ("train/_classes.csv",): "as by Roboflow: ",
    ("images", "annotations"): "rename annotations to labels",
}


@pytest.mark.parametrize("parts", LAYOUTS)
def test_layouts_of_others(tmp_path, parts):
    for part in parts:
        (tmp_path / part).mkdir(parents=True)
    with pytest.raises(DataError, match=LAYOUTS[parts]):
        list_folder(tmp_path)


def test_a_split_by_another_name(tmp_path, make_folder):
    make_folder(tmp_path)
    for kind in ("images", "labels"):
        (tmp_path / kind / "val").rename(tmp_path / kind / "validation")
    problems = list_folder(tmp_path).problems
    assert f"but {tmp_path / 'images/validation'} is there: rename it to val" in problems[0]


def test_folders_in_capitals_or_one_too_deep(tmp_path, make_folder):
    make_folder(tmp_path / "a")
    (tmp_path / "a/images").rename(tmp_path / "a/Images")
    with pytest.raises(
        DataError, match=r"images: no such folder, but .*/Images is there: rename it to images"
    ):
        list_folder(tmp_path / "a")
    make_folder(tmp_path / "b")
    (tmp_path / "b/images").rename(tmp_path / "b/x")
    (tmp_path / "b/images").mkdir()
    (tmp_path / "b/x").rename(tmp_path / "b/images/images")
    assert "images/images is there: take the folder between away" in list_folder(tmp_path / "b").problems[0]


@pytest.mark.parametrize(
    ("name", "words"), [("class_dict.csv", "rename it"), ("labelmap.txt", "make it of that")]
)
def test_a_classes_file_by_another_name(tmp_path, make_folder, name, words):
    make_folder(tmp_path)
    (tmp_path / "classes.csv").rename(tmp_path / name)
    with pytest.raises(DataError, match=f"classes.csv: no such file; .*; {name} is there: {words}"):
        list_folder(tmp_path)


def test_a_list_by_another_name(tmp_path, make_folder):
    lists(tmp_path, make_folder, "x/0\n")
    (tmp_path / "val.txt").rename(tmp_path / "valid.txt")
    (problem,) = list_folder(tmp_path).problems
    assert problem.endswith(f"but {tmp_path / 'valid.txt'} is there: rename it to val.txt")


def test_a_file_where_a_folder_should_be(tmp_path, make_folder):
    make_folder(tmp_path, counts=())
    (tmp_path / "images").write_text("")
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="images: not a folder"):
        list_folder(tmp_path)


def lists(root, make_folder, train, val="x/3\n"):
    make_folder(root, counts=())
    for i in range(5):
        for kind in ("images", "labels"):
            path = root / kind / f"x/{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    for split, text in (("train", train), ("val", val)):
        (root / f"{split}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


@pytest.mark.parametrize(
    "form",
    [
        "x/0.png",
        "images/x/0.png",
        "./x/0.png",
        "./images/x/0",
        "{root}/images/x/0.png",
        "x\\0.png",
        "images\\x\\0.png",
        "x/0.jpg",
    ],
)
def test_the_forms_of_a_name_in_a_list(tmp_path, make_folder, form):
    listing = list_folder(lists(tmp_path, make_folder, form.format(root=tmp_path) + "\n"))
    assert listing.problems == [] and names(listing) == {"train": ["x/0"], "val": ["x/3"]}


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfx/0\r\nx/1.png\r\n", b"x/0\rx/1\r", b"  x/0\t\n\n x/1"])
def test_lists_of_any_editor(tmp_path, make_folder, text):
    assert names(list_folder(lists(tmp_path, make_folder, text)))["train"] == ["x/0", "x/1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "x/0.png x/0.png\n",
            "line 1: more than a name in it ('x/0.png x/0.png'); a list has one name a line",
        ),
        ("x/0.png\tlabels/x/0.png\n", "more than a name in it"),
        ("x/0;1\n", "more than a name in it"),
        ("x/0,x/0\n", "more than a name in it"),
        ("/elsewhere/x/0.png\n", "line 1: no image /elsewhere/x/0.png below"),
        (
            "X/0\n",
            "line 1: no image {root}/images/X/0.(png|jpg|jpeg|bmp|tif|tiff|webp); x/0 differs in capitals",
        ),
        ("x/0\n".encode("utf-16"), "train.txt: not readable as a list of names in UTF-8"),
        ("x/0\n".encode("utf-16-le"), "it holds zeros"),
    ],
)
def test_lines_that_name_no_image(tmp_path, make_folder, text, words):
    (problem,) = list_folder(lists(tmp_path, make_folder, text)).problems
    assert words.format(root=tmp_path) in problem and "\n" not in problem


def test_lists_and_suffixes(tmp_path, make_folder):
    lists(tmp_path, make_folder, "x/0_rgb.png\nx/1_rgb\nx/2\n")
    rename(tmp_path / "images", lambda stem: stem + "_rgb")
    rename(tmp_path / "labels", lambda stem: stem + "_mask")
    listing = list_folder(tmp_path, Suffixes("_rgb", "_mask"))
    assert listing.problems == [] and names(listing)["train"] == ["x/0", "x/1", "x/2"]


def test_a_list_that_is_a_folder(tmp_path, make_folder):
    lists(tmp_path, make_folder, "x/0\n")
    (tmp_path / "val.txt").unlink()
    (tmp_path / "val.txt").mkdir()
    (problem,) = list_folder(tmp_path).problems
    assert problem.endswith("val.txt: not readable as a list of names in UTF-8 (Is a directory)")


def test_tails_of_names_that_hold_the_separators_themselves():
    assert pairing.labels_beside({"a_b", "a_b_mask", "c", "c_mask"}) == "_mask"
    assert pairing.labels_beside({"a_1", "a_2", "b_1", "b_2"}) == ""
