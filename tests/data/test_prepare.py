"""`prepare`: what it takes and stores, and what it says."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dpanet_jax.data
from dpanet_jax.data.datasets import DATASETS, DataSet, register
from dpanet_jax.data.datasets.folder import list_folder
from dpanet_jax.data.listing import DataError, Listing, Pair
from dpanet_jax.data.location import DatasetNotFound, dataset_dir
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare
from dpanet_jax.errors import DPANetError

ROOT = Path(dpanet_jax.data.__file__).parents[2]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_keeps_images_and_labels_as_they_are(tmp_path, make_camvid, suffix, capfd):
    source = make_camvid(tmp_path / "source", suffix=suffix)
    summary = prepare("camvid", tmp_path / "data", source, quiet=True)
    assert summary.splits == {"train": 5, "val": 3, "test": 2} and not summary.already
    assert "5 train, 3 val, 2 test, 11 classes" in str(summary)
    split = open_split("camvid", "train", tmp_path / "data")
    for i in range(5):
        example = split[i]
        assert example["name"] == f"{i:04}"
        image = np.asarray(Image.open(source / "train" / f"{i:04}{suffix}"))
        np.testing.assert_array_equal(example["image"], image)
        raw = np.asarray(Image.open(source / "trainannot" / f"{i:04}.png"))
        np.testing.assert_array_equal(example["label"], np.where(raw == 11, 255, raw))
    assert capfd.readouterr() == ("", "")


def test_palette_labels_hold_their_indices(tmp_path, make_folder):
    source = make_folder(tmp_path / "source", palette=True)
    grey = make_folder(tmp_path / "grey", palette=False)
    prepare("folder/palette", tmp_path / "data", source, quiet=True)
    prepare("folder/grey", tmp_path / "data", grey, quiet=True)
    palette, grey = (open_split(f"folder/{n}", "train", tmp_path / "data") for n in ("palette", "grey"))
    for i in range(5):
        np.testing.assert_array_equal(palette[i]["label"], grey[i]["label"])


def test_raw_ids_become_train_ids(tmp_path, make_folder):
    source = make_folder(tmp_path / "source", ids=(0, 7, 33, 255))
    (source / "classes.csv").write_text(
        "name,red,green,blue,id\nignore,0,0,0,0\nroad,1,2,3,33\nsky,4,5,6,7\n"
    )
    prepare("folder", tmp_path / "data", source, quiet=True)
    example = open_split("folder", "val", tmp_path / "data")[0]
    raw = np.asarray(Image.open(source / "labels/val/0000.png"))
    expected = np.select([raw == 33, raw == 7], [0, 1], 255)
    np.testing.assert_array_equal(example["label"], expected)


def test_images_of_other_modes_are_read_as_rgb(tmp_path, make_folder):
    source = make_folder(tmp_path / "source", counts=(("train", 4), ("val", 1)))
    rgb = Image.open(source / "images/train/0000.png").convert("RGB")
    rgb.convert("L").save(source / "images/train/0001.png")
    rgb.convert("RGBA").save(source / "images/train/0002.png")
    rgb.quantize(4).save(source / "images/train/0003.png", transparency=bytes(4))
    prepare("folder", tmp_path / "data", source, quiet=True)
    split = open_split("folder", "train", tmp_path / "data")
    for i in range(4):
        assert split[i]["image"].shape == (24, 32, 3)
    np.testing.assert_array_equal(split[2]["image"], np.asarray(rgb))


@pytest.mark.parametrize("form", ["TIFF", "BMP", "WEBP", "turned", "deep", "CMYK"])
def test_images_of_every_kind_are_stored_for_the_pipeline(tmp_path, make_folder, form):
    """What it reads is what a reader of the file itself gives, and stored are PNG and JPEG alone."""
    source = make_folder(tmp_path / "source")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
    path = source / "images/train/0000.png"
    path.unlink()
    expected = pixels
    if form == "turned":
        exif = Image.Exif()
        exif[0x0112] = 8  # Viewers turn it by 90 degrees to the left.
        Image.fromarray(np.rot90(pixels, -1)).save(path, exif=exif)
    elif form == "deep":
        deep = rng.integers(0, 2**16, (24, 32)).astype(np.uint16)
        Image.fromarray(deep).save(path)
        expected = np.repeat((deep // 256)[..., None], 3, -1)
    elif form == "CMYK":
        Image.fromarray(pixels).convert("CMYK").save(path.with_suffix(".tif"))
        expected = np.asarray(Image.fromarray(pixels).convert("CMYK").convert("RGB"))
    else:
        suffix = {"TIFF": ".tif", "BMP": ".bmp", "WEBP": ".webp"}[form]
        Image.fromarray(pixels).save(
            path.with_suffix(suffix), **({"lossless": True} if form == "WEBP" else {})
        )
    prepare("folder", tmp_path / "data", source, quiet=True)
    split = open_split("folder", "train", tmp_path / "data")
    np.testing.assert_array_equal(split[0]["image"], expected)
    assert split.sizes[0] == (24, 32)
    assert split._source[0]["image"][:4] == b"\x89PNG"
    assert split._source[1]["image"] == (source / "images/train/0001.png").read_bytes()


def test_an_orientation_that_the_label_does_not_have(tmp_path, make_folder):
    source = make_folder(tmp_path / "source")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = source / "images/train/0000.png"
    Image.open(path).save(path, exif=exif)
    with pytest.raises(DataError) as error:
        prepare("folder", tmp_path / "data", source, quiet=True)
    text = str(error.value)
    assert (
        "0000.png is 24x32 and" in text and "0000.png is 32x24: sizes differ. The EXIF orientation 6" in text
    )
    assert "exiftool -Orientation=" in text and "\n" not in text


def test_an_orientation_that_is_applied_is_said(tmp_path, make_folder):
    source = make_folder(tmp_path / "source")
    exif = Image.Exif()
    exif[0x0112] = 3
    path = source / "images/train/0000.png"
    Image.open(path).save(path, exif=exif)
    (note,) = [n for n in prepare("folder", tmp_path / "data", source, quiet=True).notes if "EXIF" in n]
    assert note == (
        f"train: images with an EXIF orientation, turned as viewers show them: 1 of 5, such as {path}"
    )


def test_a_data_set_of_an_earlier_version_is_read_as_it_was(tmp_path, make_folder):
    """It stored photos as they came, and their labels had to lie as the stored pixels do."""
    source = make_folder(tmp_path / "source")
    prepare("folder", tmp_path / "data", source, quiet=True)
    exif = Image.Exif()
    exif[0x0112] = 3
    path = source / "images/train/0000.png"
    pixels = np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path, exif=exif)
    split = open_split("folder", "train", tmp_path / "data")
    split._source = [split._source[0] | {"image": path.read_bytes()}]
    np.testing.assert_array_equal(split[0]["image"], pixels)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            "cityscape",
            "unknown data set 'cityscape'; it is one of streets, camvid, cityscapes, voc, ade20k, coco_stuff",
        ),
        ("camvid/mine", "unknown data set"),
        ("folder/a b", "NAME in folder/NAME takes letters"),
        ("folder/..", "NAME in folder/NAME takes letters"),
        (
            "camvid",
            "camvid needs its files: python -m dpanet_jax prepare --dataset=camvid --source",
        ),
    ],
)
def test_a_wrong_name_or_a_missing_source(tmp_path, dataset, message):
    with pytest.raises(DPANetError, match=message):
        prepare(dataset, tmp_path / "data", quiet=True)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        prepare("camvid", tmp_path / "data", tmp_path / "nowhere", quiet=True)


def test_a_folder_whose_metadata_is_damaged(tmp_path, make_folder):
    first = prepare("folder", tmp_path / "data", make_folder(tmp_path / "source"), quiet=True)
    for damage in ("", "[]", "{}"):
        (first.path / "metadata.json").write_text(damage)
        with pytest.raises(DataError, match="metadata.json is not what prepare writes .* --overwrite"):
            open_split("folder", "train", tmp_path / "data")


@pytest.mark.parametrize("dataset", ["streets", "camvid", "folder"])
def test_quiet_prints_nothing(tmp_path, make_folder, make_camvid, dataset, capfd):
    if dataset == "streets":
        # Fifty scenes and more are drawn by processes of their own.
        summary = prepare(dataset, tmp_path / "data", quiet=True, num_train=50, num_val=1, size=(16, 16))
    else:
        source = (make_folder if dataset == "folder" else make_camvid)(tmp_path / "source")
        summary = prepare(dataset, tmp_path / "data", source, quiet=True)
    assert not summary.already
    assert capfd.readouterr() == ("", "")


def test_without_quiet_the_work_is_shown(tmp_path, capfd):
    prepare("streets", tmp_path, num_train=1, num_val=1, size=(16, 16))
    shown = capfd.readouterr()
    assert "streets: labelled pixels" in shown.out and "note: train has not one pixel of" in shown.out
    for work in ("drawing streets", "checking", "writing"):
        assert work in shown.err


def test_a_data_set_of_another_package(tmp_path, make_folder):
    """Registered by name, it is prepared, found and read like those of this package."""
    source = make_folder(tmp_path / "source")
    classes = list_folder(source).classes

    def list_rooms(folder):
        pairs = [
            Pair(path.stem, path, folder / "labels/train" / path.name)
            for path in sorted((folder / "images/train").iterdir())
        ]
        return Listing(classes, splits={"train": pairs[:3], "odd": pairs[3:]})

    register("rooms", DataSet(list_rooms, classes=classes))
    try:
        with pytest.raises(ValueError, match="'rooms' is registered already"):
            register("rooms", DataSet(list_rooms))
        with pytest.raises(DatasetNotFound, match="prepare --dataset=rooms --source=DIR"):
            open_split("rooms", "train", tmp_path / "data")
        with pytest.raises(DPANetError, match="rooms takes no option seed"):
            prepare("rooms", tmp_path / "data", source, quiet=True, seed=1)
        assert prepare("rooms", tmp_path / "data", source, quiet=True).splits == {"train": 3, "odd": 2}
        assert len(open_split("rooms", "odd", tmp_path / "data")) == 2
    finally:
        del DATASETS["rooms"]


@pytest.mark.parametrize("name", ["", "Rooms", "my/rooms", "..", "9"])
def test_names_that_cannot_be_registered(name):
    with pytest.raises(ValueError, match="small letters"):
        register(name, DataSet(list_folder))


def test_paths(tmp_path, make_folder, monkeypatch):
    source = make_folder(tmp_path / "source")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert prepare("folder", "~/data", "~/source", quiet=True).path == tmp_path / "data/folder/default/1.0.0"
    assert prepare("folder", "data", "source", quiet=True).already
    monkeypatch.setenv("TFDS_DATA_DIR", "~/data")
    assert prepare("folder", source=source, quiet=True).already
    for arguments in (("folder", "az://bucket/data"), ("folder", "data", "gs://bucket/source")):
        with pytest.raises(DPANetError, match="(az|gs)://bucket/.*only local paths"):
            prepare(*arguments, quiet=True)
    monkeypatch.setenv("TFDS_DATA_DIR", "az://bucket/data")
    with pytest.raises(DPANetError, match="only local paths"):
        open_split("folder", "train")


def test_preparing_leaves_the_warnings_as_they_are(tmp_path, make_folder):
    source = make_folder(tmp_path / "source", counts=(("train", 20), ("val", 5)))
    before = list(warnings.filters)
    prepare("folder", tmp_path / "data", source, quiet=True)
    assert list(warnings.filters) == before


def test_no_tensorflow_no_network_and_no_jax_to_prepare(tmp_path, make_folder, run_script):
    source = make_folder(tmp_path / "source")
    script = """
        import socket, sys
        def refuse(*arguments, **keywords):
            raise AssertionError("the network was tried")
        socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
        from dpanet_jax.data.prepare import prepare
        print(prepare("folder", None, sys.argv[1], quiet=True))
        assert "jax" not in sys.modules
        from dpanet_jax.data import pipeline
        split = pipeline.open_split("folder", "train")
        from dpanet_jax.data.options import Augmentation
        augmentation = Augmentation(crop_size=(8, 8), base_size=32)
        next(pipeline.train_batches(split, augmentation, batch_size=2, seed=0))
        for batch in pipeline.eval_batches(split, 2):
            pass
        assert "tensorflow" not in sys.modules
    """
    done = run_script(script, source, TFDS_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("folder prepared: 5 train, 3 val, 3 classes, in")
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert dataset_dir("folder", tmp_path / "data").is_dir()
