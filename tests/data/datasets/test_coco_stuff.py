"""COCO-Stuff as it is published, on small archives with its layout, names and ids."""

import numpy as np
import pytest
from PIL import Image
from published_sources import pack_coco_stuff, voc_palette, write_coco_stuff

from dpanet_jax.__main__ import main
from dpanet_jax.data.datasets import coco_stuff
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare
from dpanet_jax.errors import DPANetError

COUNTS = {"train": 3, "val": 2}
# Numbers of the authors' labels.txt that no pixel has.
NEVER = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


@pytest.fixture
def few(monkeypatch):
    """So many images are published."""
    monkeypatch.setattr(coco_stuff, "_COUNTS", COUNTS)


def train_ids(raw):
    """What the 11 numbers below leave of each number, counted one by one."""
    return np.vectorize(lambda pixel: 255 if pixel == 255 else pixel - sum(n - 1 < pixel for n in NEVER))(raw)


FORMS = [
    "unpacked", "zipped", "an indexed image", "in one place", "labels alone unpacked",
    "with converted labels",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_train_ids(tmp_path, few, form):
    source = tmp_path / "source"
    ids = write_coco_stuff(source, palette=form == "an indexed image")
    if form == "zipped":
        source = pack_coco_stuff(source, tmp_path / "zip")
    elif form == "labels alone unpacked":
        packed = pack_coco_stuff(source, tmp_path / "zip")
        for split in ("train2017", "val2017"):
            (source / "annotations" / split).rename(packed / split)
        source = packed
    elif form == "in one place":
        for split in ("train2017", "val2017"):
            (source / "images" / split).rename(source / split)
            for path in (source / "annotations" / split).iterdir():
                path.rename(source / split / path.name)
    elif form == "with converted labels":
        path = next((source / "annotations/train2017").iterdir())
        path.with_name(f"{path.stem}_labelTrainIds.png").write_bytes(path.read_bytes())
    prepared = prepare("coco_stuff", tmp_path / "data", source, quiet=True)
    assert prepared.splits == COUNTS and prepared.num_classes == 171
    for split in ("train", "val"):
        for example in open_split("coco_stuff", split, tmp_path / "data"):
            np.testing.assert_array_equal(example["label"], train_ids(ids[example["name"]]))


def test_the_published_counts_and_classes():
    assert coco_stuff._COUNTS == {"train": 118287, "val": 5000}
    classes = coco_stuff.COCO_STUFF
    # Rows of the authors' labels.txt; a pixel is the number minus one.
    for number, name in ((1, "person"), (13, "stop sign"), (90, "toothbrush"), (92, "banner"), (182, "wood")):
        assert classes.names[classes.id_map[number - 1]] == name
    assert not classes.known[np.array(NEVER) - 1].any() and classes.known.sum() == 171 + 1
    assert len(set(classes.names)) == len({tuple(color) for color in classes.colors}) == 171
    np.testing.assert_array_equal(classes.colors, voc_palette()[classes.raw_ids + 1])


def test_a_subset_needs_partial(tmp_path, capfd):
    write_coco_stuff(tmp_path / "source")
    command = ["prepare", "--dataset=coco_stuff", f"--source={tmp_path / 'source'}"]
    command.append(f"--data_dir={tmp_path / 'data'}")
    assert main(command) == 1
    said = capfd.readouterr().err
    page = "https://github.com/nightrome/cocostuff#downloads has all"
    assert f"train images: 3 of 118,287 are there; train2017.zip of {page}" in said
    assert f"val images: 2 of 5,000 are there; val2017.zip of {page}" in said
    assert f"val labels: 2 of 5,000 are there; stuffthingmaps_trainval2017.zip of {page}" in said
    assert "--partial" in said and not (tmp_path / "data").exists()
    assert main([*command, "--partial"]) == 0
    assert "3 train, 2 val, 171 classes" in capfd.readouterr().out


def test_what_is_not_there_is_named_with_its_page(tmp_path):
    write_coco_stuff(tmp_path)
    # COCO's own annotations unpack to a folder of this name.
    (tmp_path / "annotations").rename(tmp_path / "away")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2017.json").write_text("{}")
    with pytest.raises(
        DataError, match="nothing of stuffthingmaps_trainval2017.zip of https://.* is"
    ) as error:
        prepare("coco_stuff", tmp_path / "data", tmp_path, quiet=True)
    assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="3 problems\n.*nothing of train2017.zip .*\n.*val2017.zip .*\n"):
        prepare("coco_stuff", tmp_path / "data", tmp_path / "empty", quiet=True)


def test_images_of_val_among_those_of_train(tmp_path):
    write_coco_stuff(tmp_path)
    for folder in (tmp_path / "images", tmp_path / "annotations"):
        for path in (folder / "val2017").iterdir():
            (folder / "train2017" / path.name).symlink_to(path)
    with pytest.raises(DataError, match="train and val share 2 images, such as 000000001009, 000000001018"):
        prepare("coco_stuff", tmp_path / "data", tmp_path, quiet=True, partial=True)


def test_labels_of_another_numbering_are_refused(tmp_path):
    write_coco_stuff(tmp_path)
    path = next((tmp_path / "annotations/train2017").iterdir())
    Image.fromarray(np.full((32, 48), 11, np.uint8)).save(path)  # stop sign, counted without gaps
    with pytest.raises(DataError, match="label id 11 is not one of the 171 classes"):
        prepare("coco_stuff", tmp_path / "data", tmp_path, quiet=True, partial=True)


@pytest.mark.parametrize("archive", ["train2017", "stuffthingmaps_trainval2017"])
def test_an_archive_cut_short_is_one_line_and_nothing_is_left(tmp_path, few, archive):
    write_coco_stuff(tmp_path / "source")
    source = pack_coco_stuff(tmp_path / "source", tmp_path / "zip")
    path = source / f"{archive}.zip"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DPANetError, match=f"{archive}.zip: cut short.*download it again") as error:
        prepare("coco_stuff", tmp_path / "data", source, quiet=True)
    assert "\n" not in str(error.value) and not (tmp_path / "data").exists()
