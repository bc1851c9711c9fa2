"""PASCAL VOC 2012 as it is published, on small archives with its layout, names, palette and ids."""

import gzip
import tarfile

import numpy as np
import pytest
from PIL import Image
from published_sources import pack_voc, voc_palette, write_voc

from dpanet_jax.__main__ import main
from dpanet_jax.data.datasets import voc
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare
from dpanet_jax.errors import DPANetError

COUNTS = {"train": 3, "val": 2, "test": 2}
LISTS = "VOCdevkit/VOC2012/ImageSets/Segmentation"
MASKS = "VOCdevkit/VOC2012/SegmentationClassAug"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """So many images are published."""
    monkeypatch.setattr(voc, "_COUNTS", COUNTS | {"augmented": 5})


def held(data_dir, split):
    return {example["name"]: example for example in open_split("voc", split, data_dir)}


@pytest.mark.parametrize("form", ["VOCdevkit/ in DIR", "DIR is VOCdevkit/", "DIR is VOC2012/", "archives"])
@pytest.mark.parametrize("more", [0, 2])
def test_every_form_gives_the_indices(tmp_path, form, more):
    ids = write_voc(tmp_path / "source", more=more, test=2)
    source = tmp_path / "source"
    if form == "archives":
        source = pack_voc(source, tmp_path / "packed")
        assert {path.name for path in source.iterdir()} == {
            "VOCtrainval_11-May-2012.tar",
            "VOC2012test.tar",
        } | ({"SegmentationClassAug.zip", "train_aug.txt"} if more else set())
    elif form.startswith("DIR is"):
        inner = source / ("VOCdevkit" if form == "DIR is VOCdevkit/" else "VOCdevkit/VOC2012")
        if more:
            (source / "train_aug.txt").rename(inner / "train_aug.txt")
        source = inner
    prepared = prepare("voc", tmp_path / "data", source, quiet=True)
    assert prepared.splits == COUNTS | {"train": 3 + more}
    assert prepared.num_classes == 21 and prepared.unlabelled == ("test",)
    examples = held(tmp_path / "data", "train") | held(tmp_path / "data", "val")
    assert len(examples) == 5 + more
    for name, example in examples.items():
        np.testing.assert_array_equal(example["label"], ids[name])
        path = tmp_path / f"source/VOCdevkit/VOC2012/JPEGImages/{name}.jpg"
        np.testing.assert_array_equal(example["image"], np.asarray(Image.open(path)))
    assert all("label" not in example for example in held(tmp_path / "data", "test").values())


def test_what_is_published(monkeypatch):
    monkeypatch.undo()
    assert voc._COUNTS == {"train": 1464, "augmented": 10582, "val": 1449, "test": 1456}
    np.testing.assert_array_equal(voc.VOC.colors, voc_palette()[:21])
    assert voc.VOC.names[0] == "background" and voc.VOC.raw_ids.tolist() == list(range(21))


def test_a_palette_of_other_colours_changes_nothing(tmp_path):
    ids = write_voc(tmp_path)
    for path in tmp_path.glob("VOCdevkit/VOC2012/SegmentationClass/*"):
        label = Image.open(path)
        # Every index has the colour of another class, 255 too.
        label.putpalette(np.resize(np.roll(voc_palette()[:21], 1, axis=0), (256, 3)).tobytes())
        label.save(path)
    prepare("voc", tmp_path / "data", tmp_path, quiet=True)
    for name, example in held(tmp_path / "data", "val").items():
        np.testing.assert_array_equal(example["label"], ids[name])


def test_a_label_in_colours_is_refused(tmp_path):
    write_voc(tmp_path)
    path = next(tmp_path.glob("VOCdevkit/VOC2012/SegmentationClass/*"))
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(DataError, match=f"{path.name}: a picture in colours; .* ids, in grey or a palette"):
        prepare("voc", tmp_path / "data", tmp_path, quiet=True)


def test_a_list_of_names_and_masks_of_what_has_no_label_yet(tmp_path):
    """As mmsegmentation converts them: trainaug.txt, and VOC's own labels where there are some."""
    ids = write_voc(tmp_path, more=2)
    lines = (tmp_path / "train_aug.txt").read_text().splitlines()
    names = [line.rpartition("/")[2].removesuffix(".png") for line in lines]
    (tmp_path / "train_aug.txt").unlink()
    (tmp_path / LISTS / "trainaug.txt").write_text("\r\n".join(names) + "\r\n")
    for name in names[:3]:
        (tmp_path / f"VOCdevkit/VOC2012/SegmentationClassAug/{name}.png").unlink()
    assert prepare("voc", tmp_path / "data", tmp_path, quiet=True).splits["train"] == 5
    examples = held(tmp_path / "data", "train")
    for name in names:
        np.testing.assert_array_equal(examples[name]["label"], ids[name])


def test_a_subset_needs_partial(tmp_path, capfd, monkeypatch):
    monkeypatch.undo()
    write_voc(tmp_path / "source", more=2)
    (tmp_path / "source/VOCdevkit/VOC2012/JPEGImages/2007_000000.jpg").unlink()
    command = [
        "prepare",
        "--dataset=voc",
        f"--source={tmp_path / 'source'}",
        f"--data_dir={tmp_path / 'data'}",
    ]
    assert main(command) == 1
    said = capfd.readouterr().err
    assert "train_aug.txt: 5 of 10,582 are there; train_aug.txt of https://github.com/" in said
    assert (
        "val.txt: 2 of 1,449 are there; VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/" in said
    )
    assert "train images: 4 of 5 are there; VOCtrainval_11-May-2012.tar of http://host" in said
    assert "--partial" in said and not (tmp_path / "data").exists()
    assert main([*command, "--partial"]) == 0
    assert "voc prepared: 4 train, 2 val, 21 classes" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        (f"{LISTS}/train.txt", "nothing of VOCtrainval_11-May-2012.tar of http://host.robots.* is there"),
        (
            f"{LISTS}/val.txt",
            "no ImageSets/Segmentation/val.txt is there; VOCtrainval_11-May-2012.tar of http",
        ),
        ("train_aug.txt", "SegmentationClassAug is there, and no list of it: put train_aug.txt of https"),
        (MASKS, "train_aug.txt is there; nothing of SegmentationClassAug.zip of https.*remove the list"),
        (f"{MASKS}/2007_000005.png", "train labels: 4 of 5 are there; SegmentationClassAug.zip of https"),
    ],
)
def test_what_is_not_there_is_named_with_its_page(tmp_path, lacking, words):
    write_voc(tmp_path, more=2)
    (tmp_path / lacking).rename(tmp_path / "away")
    with pytest.raises(DataError, match=words) as error:
        prepare("voc", tmp_path / "data", tmp_path, quiet=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["train.txt", "train_aug.txt"])
def test_a_list_of_train_with_images_of_val(tmp_path, file):
    """Such as trainval.txt, and the list of all that the Semantic Boundaries Dataset has."""
    write_voc(tmp_path, more=2 if file == "train_aug.txt" else 0)
    path = tmp_path / file if file == "train_aug.txt" else tmp_path / LISTS / file
    path.write_text(path.read_text().rstrip("\n") + "\n" + (tmp_path / LISTS / "val.txt").read_text())
    words = rf"train \(.*{file}\) and val \(.*val.txt\) share 2 images, such as 20.*: a score"
    for partial in (False, True):
        with pytest.raises(DataError, match=words) as error:
            prepare("voc", tmp_path / "data", tmp_path, quiet=True, partial=partial)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "/JPEGImages/2007_000000.jpg /SegmentationClassAug/2008_000001.png",
            "neither a name nor an image and",
        ),
        ("2007_000000", "2007_000000 is already in line 1"),
    ],
)
def test_a_line_that_is_wrong(tmp_path, line, words):
    write_voc(tmp_path)
    with (tmp_path / LISTS / "train.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=f"train.txt, line 4: {words}"):
        prepare("voc", tmp_path / "data", tmp_path, quiet=True)


@pytest.mark.parametrize("cut", ["in a file", "between two files", "in a header", "a header damaged", "gzip"])
def test_damaged_archives_are_one_line_and_nothing_is_left(tmp_path, cut):
    write_voc(tmp_path / "source")
    path = pack_voc(tmp_path / "source", tmp_path / "packed") / "VOCtrainval_11-May-2012.tar"
    with tarfile.open(path) as archive:
        last = [info for info in archive.getmembers() if info.isreg()][-1]
    content = path.read_bytes()
    if cut == "gzip":
        content = gzip.compress(content)
    elif cut == "a header damaged":
        content = content[: last.offset] + b"?" * 100 + content[last.offset + 100 :]
    else:
        content = content[
            : {"in a file": last.offset_data + 9, "in a header": last.offset + 9}.get(cut, last.offset)
        ]
    path.write_bytes(content)
    with pytest.raises(
        DPANetError, match="VOCtrainval_11-May-2012.tar: cut short.*; download it again"
    ) as error:
        prepare("voc", tmp_path / "data", path.parent, quiet=True)
    assert "\n" not in str(error.value) and not (tmp_path / "data").exists()


def test_the_archive_itself_as_the_source(tmp_path):
    write_voc(tmp_path / "source")
    packed = pack_voc(tmp_path / "source", tmp_path / "packed")
    path = packed / "VOCtrainval_11-May-2012.tar"
    with pytest.raises(DataError, match=f"a file; name the folder that it is in, with --source={packed}$"):
        prepare("voc", tmp_path / "data", path, quiet=True)
