"""Cityscapes as it is published, on small archives with its layout, names and ids."""

import numpy as np
import pytest
from PIL import Image
from published_sources import TRAIN_IDS, pack_cityscapes, write_cityscapes

from dpanet_jax.__main__ import main
from dpanet_jax.data.datasets import cityscapes
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare
from dpanet_jax.errors import DPANetError

COUNTS = {"train": 3, "val": 2, "test": 2}


@pytest.fixture
def few(monkeypatch):
    """So many images are published."""
    monkeypatch.setattr(cityscapes, "_COUNTS", COUNTS)
    monkeypatch.setattr(cityscapes, "_EXTRA_COUNT", 2)


@pytest.mark.parametrize("form", ["unpacked", "zipped", "train ids"])
def test_every_form_gives_the_same_train_ids(tmp_path, few, form):
    ids = write_cityscapes(tmp_path / "source", train_ids=form == "train ids")
    source = tmp_path / "source"
    if form == "zipped":
        source = pack_cityscapes(source, tmp_path / "zip")
    prepared = prepare("cityscapes", tmp_path / "data", source, quiet=True)
    assert prepared.splits == COUNTS and prepared.num_classes == 19 and prepared.unlabelled == ("test",)
    for split in ("train", "val"):
        for example in open_split("cityscapes", split, tmp_path / "data"):
            expected = np.vectorize(lambda i: TRAIN_IDS.get(i, 255))(ids[example["name"]])
            np.testing.assert_array_equal(example["label"], expected)
            city, _, name = example["name"].partition("/")
            path = tmp_path / "source/leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
            np.testing.assert_array_equal(example["image"], np.asarray(Image.open(path)))
    assert "label" not in open_split("cityscapes", "test", tmp_path / "data")[0]
    # Predictions are written with the ids of the server, whatever the files held.
    assert open_split("cityscapes", "val", tmp_path / "data").classes.raw_ids.tolist() == list(TRAIN_IDS)


def test_the_published_counts():
    assert cityscapes._COUNTS == {"train": 2975, "val": 500, "test": 1525}
    assert cityscapes._EXTRA_COUNT == 19998


@pytest.mark.parametrize("form", ["unpacked", "zipped"])
def test_coarse_labels_are_a_split_of_their_own(tmp_path, few, form):
    ids = write_cityscapes(tmp_path / "source", coarse=2)
    source = tmp_path / "source"
    if form == "zipped":
        source = pack_cityscapes(source, tmp_path / "zip")
        assert (source / "leftImg8bit_trainextra.zip").is_file() and (source / "gtCoarse.zip").is_file()
    prepared = prepare("cityscapes", tmp_path / "data", source, quiet=True)
    assert prepared.splits == COUNTS | {"train_extra": 2}
    for example in open_split("cityscapes", "train_extra", tmp_path / "data"):
        expected = np.vectorize(lambda i: TRAIN_IDS.get(i, 255))(ids[example["name"]])
        np.testing.assert_array_equal(example["label"], expected)


def test_a_subset_needs_partial(tmp_path, capfd):
    write_cityscapes(tmp_path / "source")
    command = ["prepare", "--dataset=cityscapes", f"--source={tmp_path / 'source'}"]
    command.append(f"--data_dir={tmp_path / 'data'}")
    assert main(command) == 1
    said = capfd.readouterr().err
    assert "train images: 3 of 2,975 are there; leftImg8bit_trainvaltest.zip of https://www.city" in said
    assert "val labels (labelIds): 2 of 500 are there; gtFine_trainvaltest.zip of" in said
    assert "--partial" in said and not (tmp_path / "data").exists()
    assert main([*command, "--partial"]) == 0
    assert "3 train, 2 val, 2 test (without labels), 19 classes" in capfd.readouterr().out


def test_what_is_not_there_is_named_with_its_page(tmp_path):
    tmp_path.joinpath("gtFine").mkdir()
    with pytest.raises(
        DataError, match="nothing of leftImg8bit_trainvaltest.zip of https://.* is there"
    ) as e:
        prepare("cityscapes", tmp_path / "data", tmp_path, quiet=True)
    assert "\n" not in str(e.value)


def test_an_image_without_a_label_is_refused_also_of_a_subset(tmp_path):
    write_cityscapes(tmp_path)
    next(tmp_path.glob("gtFine/train/aachen/*000001*_labelIds.png")).unlink()
    with pytest.raises(
        DataError, match="train: without a label of the same name: .*aachen_000001_000019_left"
    ):
        prepare("cityscapes", tmp_path / "data", tmp_path, quiet=True, partial=True)


def test_images_of_val_among_those_of_train(tmp_path):
    write_cityscapes(tmp_path)
    for folder in ("leftImg8bit", "gtFine"):
        (tmp_path / folder / "train/frankfurt").symlink_to(tmp_path / folder / "val/frankfurt")
    with pytest.raises(DataError, match="train and val share 2 images, such as frankfurt/frankfurt_000000"):
        prepare("cityscapes", tmp_path / "data", tmp_path, quiet=True, partial=True)


@pytest.mark.parametrize("damage", ["cut short", "a file damaged"])
def test_damaged_archives_are_one_line_and_nothing_is_left(tmp_path, few, damage):
    write_cityscapes(tmp_path / "source")
    source = pack_cityscapes(tmp_path / "source", tmp_path / "zip")
    path = source / "leftImg8bit_trainvaltest.zip"
    content = bytearray(path.read_bytes())
    if damage == "cut short":
        content = content[:-100]
    else:
        content[3000:3010] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(DPANetError, match="leftImg8bit_trainvaltest.zip.* download .*again") as error:
        prepare("cityscapes", tmp_path / "data", source, quiet=True)
    assert "\n" not in str(error.value) and not (tmp_path / "data").exists()
