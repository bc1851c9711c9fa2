"""ADE20K as it is published, on small archives with its layout, names and ids."""

import numpy as np
import pytest
from PIL import Image
from published_sources import pack_ade20k, write_ade20k

from dpanet_jax.__main__ import main
from dpanet_jax.data.datasets import ade20k
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare
from dpanet_jax.errors import DPANetError

COUNTS = {"train": 3, "val": 2, "test": 2}


@pytest.fixture
def few(monkeypatch):
    """So many images are published."""
    monkeypatch.setattr(ade20k, "_COUNTS", COUNTS)


@pytest.mark.parametrize("form", ["unpacked", "zipped", "without the folder above"])
def test_every_form_gives_the_same_train_ids(tmp_path, few, form):
    ids = write_ade20k(tmp_path / "source")
    source = tmp_path / "source"
    if form == "zipped":
        source = pack_ade20k(source, tmp_path / "zip")
    elif form == "without the folder above":
        (source / "release_test").rename(source / "ADEChallengeData2016/release_test")
        source = source / "ADEChallengeData2016"
    prepared = prepare("ade20k", tmp_path / "data", source, quiet=True)
    assert prepared.splits == COUNTS and prepared.num_classes == 150 and prepared.unlabelled == ("test",)
    for split in ("train", "val"):
        for example in open_split("ade20k", split, tmp_path / "data"):
            # 0 is ignored, and class k of 150 is k.
            expected = np.where(ids[example["name"]] == 0, 255, ids[example["name"]] - 1)
            np.testing.assert_array_equal(example["label"], expected)
    test = open_split("ade20k", "test", tmp_path / "data")
    assert [example["name"] for example in test] == ["ADE_test_00000001", "ADE_test_00000002"]
    assert test.classes.raw_ids.tolist() == list(range(1, 151))


def test_the_published_counts_and_classes():
    assert ade20k._COUNTS == {"train": 20210, "val": 2000, "test": 3352}
    # Rows of the benchmark's objectInfo150.txt and color150.mat.
    for number, name, color in (
        (1, "wall", (120, 120, 120)),
        (13, "person", (150, 5, 61)),
        (21, "car", (0, 102, 200)),
        (90, "television", (0, 255, 194)),
        (150, "flag", (92, 0, 255)),
    ):
        k = ade20k.ADE20K.id_map[number]
        assert (k, ade20k.ADE20K.names[k], tuple(ade20k.ADE20K.colors[k])) == (number - 1, name, color)
    assert len(set(ade20k.ADE20K.names)) == 150


def test_test_may_be_absent(tmp_path, few):
    write_ade20k(tmp_path / "source", counts=(3, 2, 0))
    assert prepare("ade20k", tmp_path / "data", tmp_path / "source", quiet=True).splits == {
        "train": 3,
        "val": 2,
    }


def test_a_subset_needs_partial(tmp_path, capfd):
    write_ade20k(tmp_path / "source")
    command = [
        "prepare",
        "--dataset=ade20k",
        f"--source={tmp_path / 'source'}",
        f"--data_dir={tmp_path / 'data'}",
    ]
    assert main(command) == 1
    said = capfd.readouterr().err
    page = "http://sceneparsing.csail.mit.edu/ has all"
    assert f"train images: 3 of 20,210 are there; ADEChallengeData2016.zip of {page}" in said
    assert f"val labels: 2 of 2,000 are there; ADEChallengeData2016.zip of {page}" in said
    assert f"test images: 2 of 3,352 are there; release_test.zip of {page}" in said
    assert "--partial" in said and not (tmp_path / "data").exists()
    assert main([*command, "--partial"]) == 0
    assert "3 train, 2 val, 2 test (without labels), 150 classes" in capfd.readouterr().out


@pytest.mark.parametrize("there", ["nothing", "another download"])
def test_what_is_not_there_is_named_with_its_page(tmp_path, there):
    if there == "another download":
        # The full data set, of another page: it has no folder of annotations.
        (tmp_path / "ADE20K_2021_17_01/images").mkdir(parents=True)
    with pytest.raises(
        DataError, match="nothing of ADEChallengeData2016.zip of http://scene.* is there"
    ) as e:
        prepare("ade20k", tmp_path / "data", tmp_path, quiet=True)
    assert "\n" not in str(e.value)


def test_images_of_val_among_those_of_train(tmp_path):
    write_ade20k(tmp_path)
    for folder in tmp_path.glob("ADEChallengeData2016/*/"):
        for path in folder.glob("validation/*1.*"):
            (folder / "training" / path.name).symlink_to(path)
    with pytest.raises(DataError, match="train and val share 1 images, such as ADE_val_00000001"):
        prepare("ade20k", tmp_path / "data", tmp_path, quiet=True, partial=True)


@pytest.mark.parametrize(
    ("pixel", "words"),
    [(151, "label id 151 is not one of the 150 classes"), ((6, 230, 230), "a picture in colours")],
)
def test_labels_of_another_kind_are_refused(tmp_path, pixel, words):
    write_ade20k(tmp_path)
    path = tmp_path / "ADEChallengeData2016/annotations/training/ADE_train_00000002.png"
    Image.new("L" if isinstance(pixel, int) else "RGB", (48, 32), pixel).save(path)
    with pytest.raises(DataError, match=f"ADE_train_00000002.png: {words}"):
        prepare("ade20k", tmp_path / "data", tmp_path, quiet=True, partial=True)


def test_an_archive_cut_short_is_one_line_and_nothing_is_left(tmp_path, few):
    write_ade20k(tmp_path / "source")
    source = pack_ade20k(tmp_path / "source", tmp_path / "zip")
    path = source / "ADEChallengeData2016.zip"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DPANetError, match="ADEChallengeData2016.zip: cut short.*download it again") as error:
        prepare("ade20k", tmp_path / "data", source, quiet=True)
    assert "\n" not in str(error.value) and not (tmp_path / "data").exists()
