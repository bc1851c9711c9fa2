"""Archives for the servers, read by the official evaluation and by Pillow, and what cannot be submitted."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from published_sources import write_voc

from dpanet_jax.__main__ import main
from dpanet_jax.config import default_config
from dpanet_jax.data.classes import Classes
from dpanet_jax.data.datasets.cityscapes import CITYSCAPES
from dpanet_jax.data.datasets.voc import VOC
from dpanet_jax.data.prepare import prepare
from dpanet_jax.data.split import open_split
from dpanet_jax.errors import UsageError
from dpanet_jax.evaluation.submission import Submission
from dpanet_jax.verbs import evaluate as verb

VAL = ["frankfurt/frankfurt_000000_000294", "lindau/lindau_000001_000019"]
TEST = ["berlin/berlin_000000_000019", "berlin/berlin_000001_000019"]
# As VOC publishes them.
VOC_COLORS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}


class Red:
    """A protocol whose predictions are the red channel, modulo the number of classes."""

    name, base_size, fills_up = "whole", 0, False

    def __init__(self, num_classes):
        self.num_classes = num_classes

    def measured(self, images, labels):
        return images, labels

    def each(self, batches, variables):
        for images in batches:
            yield images[..., 0] % self.num_classes


def stand_in(root, dataset, classes):
    """For a trained model: on a data set that is prepared in root/data."""
    config = default_config()
    config.data.dataset, config.data.data_dir = dataset, str(root / "data")
    return SimpleNamespace(
        config=config,
        classes=classes,
        protocol=Red(len(classes)),
        device_variables={},
        folder=root / "3",
        step=3,
        base_size=0,
        check_classes=lambda name, classes: None,
    )


@pytest.fixture
def site(tmp_path, monkeypatch, write_cityscapes):
    """Cityscapes, prepared, with a stand-in for a trained model; images hold their predictions' train ids."""
    files = write_cityscapes(tmp_path, VAL) | write_cityscapes(tmp_path, ["aachen/aachen_1_1"], split="train")
    for split, names in {"train": ["aachen/aachen_1_1"], "val": VAL, "test": TEST}.items():
        for number, name in enumerate(names):
            _, prediction = files.setdefault(name, (None, np.full((30, 64), CITYSCAPES.raw_ids[number])))
            path = tmp_path / "leftImg8bit" / split / f"{name}_leftImg8bit.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            red = CITYSCAPES.id_map[prediction]
            Image.fromarray(np.stack([red, red, red], axis=-1)).save(path)
    prepare("cityscapes", tmp_path / "data", tmp_path, quiet=True, partial=True)
    model = stand_in(tmp_path, "cityscapes", CITYSCAPES)
    monkeypatch.setattr(verb, "trained_for", lambda *arguments: model)
    return SimpleNamespace(root=tmp_path, files=files, command=["evaluate", f"--workdir={tmp_path / 'run'}"])


def unzipped(path, folder):
    with zipfile.ZipFile(path) as archive:
        # What `unzip` gives the files: without a mode, nobody could read them.
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o644}
        archive.extractall(folder)
    return folder


def test_the_figures_are_those_of_the_official_evaluation_of_the_archive(site, official_evaluation, capsys):
    """The verb end to end: what it prints and reports, and what the authors' evaluation makes of FILE.zip."""
    archive, instances = site.root / "val.zip", site.root / "gtFine"
    command = [*site.command, f"--submission={archive}", f"--instances={instances}", "--per_image"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"for the Cityscapes server: {archive}, 2 predictions" in said and "iIoU %" in said
    report = json.loads((site.root / "run/evaluation/val_whole.json").read_text())
    printed, written = official_evaluation(instances / "val", unzipped(archive, site.root / "val"))
    assert f"{report['mean_iou']:.3f}" == printed["mean of classes"][0]
    for row in report["classes"]:
        assert row["iou"] == pytest.approx(written["classScores"][row["name"]], rel=1e-12)
    figures = report["cityscapes"]
    for kind, rows in (("class", figures["classes"]), ("category", figures["categories"])):
        for row in rows:
            iou, instance_iou = (written[f"{kind}{end}"][row["name"]] for end in ("Scores", "InstScores"))
            assert row["iou"] == pytest.approx(iou, rel=1e-12)
            assert (row["instance_iou"] is None) == np.isnan(instance_iou)
            assert row["instance_iou"] is None or row["instance_iou"] == pytest.approx(
                instance_iou, rel=1e-12
            )
    for key, name in (("class", "Classes"), ("category", "Categories")):
        assert figures[f"mean_{key}_iou"] == pytest.approx(written[f"averageScore{name}"], rel=1e-12)
        expected = pytest.approx(written[f"averageScoreInst{name}"], rel=1e-12)
        assert figures[f"mean_{key}_instance_iou"] == expected


def test_a_split_without_labels_has_predictions_and_no_figures(site, capsys):
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    archive = site.root / "test.zip"
    assert main([*site.command, "--split=test", f"--submission={archive}"]) == 0
    said = capsys.readouterr().out
    assert "2 predictions" in said and "IoU" not in said
    assert not (site.root / "run").exists()
    folder = unzipped(archive, site.root / "test")
    assert len(list(folder.rglob("*"))) == len(TEST)
    seek = SimpleNamespace(predictionPath=str(folder), predictionWalk=None)
    for name in TEST:
        found = script.getPrediction(seek, f"gtFine/test/{name}_gtFine_labelIds.png")
        with Image.open(found) as image:
            assert image.mode == "L" and image.size == (64, 30)
            np.testing.assert_array_equal(image, site.files[name][1])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--split=test", "--submission=x.zip", "--per_image"], "--per_image: split 'test' has no labels"),
        (["--split=test", "--submission=x.zip", "--instances=x"], "--instances: split 'test' has no labels"),
        (["--split=test"], "has no labels, so nothing can be trained on it or evaluated"),
        (["--instances=leftImg8bit"], "2 of 2 images have no file below"),
        (["--submission=x.tar.gz"], "x.tar.gz: archives for the Cityscapes server end in .zip"),
        (["--submission=no/x.zip"], "there is no folder"),
        (["--submission=folder.zip"], "folder.zip: is a folder"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(site, flags, words, capsys, monkeypatch):
    monkeypatch.chdir(site.root)
    monkeypatch.setattr(Red, "each", None)
    (site.root / "folder.zip").mkdir()
    assert main([*site.command, *flags]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (site.root / "run").exists() and not (site.root / "x.zip").exists()


@pytest.mark.parametrize("flag", ["--instances=gtFine", "--submission=x.zip"])
def test_a_protocol_that_sees_a_part_of_an_image_is_refused(site, flag, capsys, monkeypatch):
    monkeypatch.setattr(Red, "name", "center_crop")
    assert main([*site.command, flag]) == 2
    assert "center_crop sees the middle of an image alone; take another --protocol" in capsys.readouterr().err


def split(names, sizes=None):
    """Of VOC's images, or of a user's folder with its classes: then their colours are not VOC's."""
    classes = Classes.from_ids(VOC.names, [(9, 9, 9)] * len(VOC))
    return SimpleNamespace(classes=classes, name="test", sizes=sizes or [(6, 8)] * len(names))


def see(submission, names, predictions):
    for index, name in enumerate(names):
        submission.see(name, index, np.full(predictions[index].shape, 255, np.uint8), predictions[index])


def archived(path):
    """{name: content} of a ZIP or TAR archive."""
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tgz"])
def test_voc_takes_palette_pngs_in_its_folders(tmp_path, suffix):
    names, sizes = ["2008_000006", "2011_000002"], [(5, 8), (7, 3)]
    predictions = [np.random.default_rng(0).integers(0, 21, size).astype(np.uint8) for size in sizes]
    submission = Submission(split(names, sizes=sizes))
    submission.require(tmp_path / f"results{suffix}", names)
    see(submission, names, predictions)
    files = archived(submission.write(tmp_path / f"results{suffix}"))
    assert list(files) == [f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in names]
    for content, prediction in zip(files.values(), predictions, strict=True):
        with Image.open(io.BytesIO(content)) as image:
            assert image.mode == "P"
            palette = np.reshape(image.getpalette(), (-1, 3))
            assert {index: tuple(palette[index].tolist()) for index in VOC_COLORS} == VOC_COLORS
            np.testing.assert_array_equal(image, prediction)


def test_the_test_images_of_voc(tmp_path, monkeypatch):
    """The verb on the data set as it is published: names and sizes are those of the images."""
    write_voc(tmp_path / "source", test=3)
    prepare("voc", tmp_path / "data", tmp_path / "source", quiet=True, partial=True)
    model = stand_in(tmp_path, "voc", VOC)
    monkeypatch.setattr(verb, "trained_for", lambda *arguments: model)
    archive = tmp_path / "results.tgz"
    command = ["evaluate", f"--workdir={tmp_path / 'run'}", "--split=test", f"--submission={archive}"]
    assert main(command) == 0
    files = archived(archive)
    for example in open_split("voc", "test", tmp_path / "data"):
        content = files.pop(f"results/VOC2012/Segmentation/comp6_test_cls/{example['name']}.png")
        with Image.open(io.BytesIO(content)) as image:
            np.testing.assert_array_equal(image, example["image"][..., 0] % 21)
    assert not files


def test_hosts_put_their_predictions_together(tmp_path):
    names = [f"2008_{number:06}" for number in range(4)]
    predictions = [np.full((6, 8), number, np.uint8) for number in range(4)]
    alone, parts = Submission(split(names)), [Submission(split(names)), Submission(split(names))]
    see(alone, names, predictions)
    for index, name in enumerate(names):
        parts[index % 2].see(name, index, predictions[index], predictions[index])
    parts[1].merge(pickle.loads(pickle.dumps(parts[0])))
    written = [submission.write(tmp_path / f"{k}.zip") for k, submission in enumerate((alone, parts[1]))]
    assert len(parts[1]) == 4 and written[0].read_bytes() == written[1].read_bytes()


def test_a_disk_that_fills_leaves_the_archive_that_was_there(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    (tmp_path / "results.zip").write_bytes(b"earlier")
    submission = Submission(split(["2008_000006"]))
    see(submission, ["2008_000006"], [np.zeros((6, 8), np.uint8)])
    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="No space left"):
        submission.write(tmp_path / "results.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["results.zip"]
    assert (tmp_path / "results.zip").read_bytes() == b"earlier"


def test_classes_and_names_that_no_server_knows(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="servers of Cityscapes and PASCAL VOC are known"):
        Submission(SimpleNamespace(classes=Classes.from_ids(["a", "b"], [(0, 0, 0)] * 2)))
    submission = Submission(split([]))
    with pytest.raises(UsageError, match="names like YEAR_NUMBER, such as 2008_000006; 'scene_1' is none"):
        submission.require(tmp_path / "x.zip", ["scene_1"])
    with pytest.raises(UsageError, match="a/2008_000006 and b/2008_000006 have one name for the server"):
        submission.require(tmp_path / "x.zip", ["a/2008_000006", "b/2008_000006"])
    with pytest.raises(UsageError, match="2008_000006 has 8x6 pixels and its prediction 6x6"):
        see(Submission(split(["2008_000006"])), ["2008_000006"], [np.zeros((6, 6), np.uint8)])
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(UsageError, match="nothing may be written"):
        submission.require(tmp_path / "x.zip", [])
