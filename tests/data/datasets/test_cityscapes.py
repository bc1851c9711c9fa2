"""Cityscapes as it is published, on small archives with its layout, names and ids."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.__main__ import main
from dpanet_jax.data.datasets import cityscapes
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare
from dpanet_jax.errors import DPANetError

COUNTS = {"train": 3, "val": 2, "test": 2}
CITIES = {"train": "aachen", "val": "frankfurt", "test": "berlin", "train_extra": "bayreuth"}
# From the authors' labels.py: id → trainId, written out once more.
TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
    27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


def write(root, counts=COUNTS, coarse=0, train_ids=False):
    """Unpacked; returns {name: raw ids}."""
    rng = np.random.default_rng(0)
    ids = {}
    for split, count in {**counts, "train_extra": coarse}.items():
        kind = "gtCoarse" if split == "train_extra" else "gtFine"
        for i in range(count):
            name = f"{CITIES[split]}_{i:06}_000019"
            folders = [root / folder / split / CITIES[split] for folder in ("leftImg8bit", kind)]
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            raw = rng.integers(0, 34, (32, 64)).astype(np.uint8)
            if split == "test":
                raw[:] = 0
            ids[f"{CITIES[split]}/{name}"] = raw
            pixels = rng.integers(0, 256, (32, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folders[0] / f"{name}_leftImg8bit.png")
            stored = np.vectorize(lambda i: TRAIN_IDS.get(i, 255))(raw).astype(np.uint8) if train_ids else raw
            form = "labelTrainIds" if train_ids else "labelIds"
            Image.fromarray(stored).save(folders[1] / f"{name}_{kind}_{form}.png")
            Image.fromarray(pixels).save(folders[1] / f"{name}_{kind}_color.png")
            (folders[1] / f"{name}_{kind}_polygons.json").write_text("{}")
    return ids


def pack(root, target):
    """The two archives as they are published; `root` is what is in them."""
    target.mkdir()
    for archive, folder in (("leftImg8bit_trainvaltest", "leftImg8bit"), ("gtFine_trainvaltest", "gtFine")):
        with zipfile.ZipFile(target / f"{archive}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("README", "Cityscapes")
            for path in sorted((root / folder).rglob("*")):
                packed.write(path, path.relative_to(root))
    return target


@pytest.fixture
def few(monkeypatch):
    """So many images are published."""
    monkeypatch.setattr(cityscapes, "_COUNTS", COUNTS)
    monkeypatch.setattr(cityscapes, "_EXTRA_COUNT", 2)


@pytest.mark.parametrize("form", ["unpacked", "zipped", "train ids"])
def test_every_form_gives_the_same_train_ids(tmp_path, few, form):
    ids = write(tmp_path / "source", train_ids=form == "train ids")
    source = pack(tmp_path / "source", tmp_path / "zip") if form == "zipped" else tmp_path / "source"
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


def test_coarse_labels_are_a_split_of_their_own(tmp_path, few):
    write(tmp_path / "source", coarse=2)
    prepared = prepare("cityscapes", tmp_path / "data", tmp_path / "source", quiet=True)
    assert prepared.splits == COUNTS | {"train_extra": 2}
    assert "label" in open_split("cityscapes", "train_extra", tmp_path / "data")[0]


def test_a_subset_needs_partial(tmp_path, capfd):
    write(tmp_path / "source")
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
    write(tmp_path)
    next(tmp_path.glob("gtFine/train/aachen/*000001*_labelIds.png")).unlink()
    with pytest.raises(
        DataError, match="train: without a label of the same name: .*aachen_000001_000019_left"
    ):
        prepare("cityscapes", tmp_path / "data", tmp_path, quiet=True, partial=True)


def test_images_of_val_among_those_of_train(tmp_path):
    write(tmp_path)
    for folder in ("leftImg8bit", "gtFine"):
        (tmp_path / folder / "train/frankfurt").symlink_to(tmp_path / folder / "val/frankfurt")
    with pytest.raises(DataError, match="train and val share 2 images, such as frankfurt/frankfurt_000000"):
        prepare("cityscapes", tmp_path / "data", tmp_path, quiet=True, partial=True)


@pytest.mark.parametrize("damage", ["cut short", "a file damaged"])
def test_damaged_archives_are_one_line_and_nothing_is_left(tmp_path, few, damage):
    write(tmp_path / "source")
    source = pack(tmp_path / "source", tmp_path / "zip")
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
