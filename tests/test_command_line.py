"""The command line end to end on a small `streets`, and its errors: one clear line each, no trace."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dpanet_jax
from dpanet_jax import models
from dpanet_jax.__main__ import main
from dpanet_jax.config import sections
from dpanet_jax.evaluation.protocols.whole import Whole
from dpanet_jax.version import __version__

ROOT = Path(__file__).parent.parent
DEMO = f"--config={ROOT / 'configs' / 'demo.py'}"
EIGHT = "--config.training.batch_size=8"  # One image for each of the eight simulated devices.


def small(streets_dir):
    return [
        DEMO,
        f"--config.data.data_dir={streets_dir}",
        "--config.data.crop_size=(64, 64)",
        "--config.data.base_size=128",
        "--config.model.width=8",
        "--config.model.reduce_channels=8",
        "--config.training.steps=2",
        "--config.training.batch_size=8",
        "--config.evaluation.batch_size=2",
        "--config.log_every_steps=1",
    ]


@pytest.fixture(scope="module")
def workdir(streets_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    assert main(["train", *small(streets_dir), f"--workdir={workdir}"]) == 0
    return workdir


def test_prepare_says_what_is_there(streets_dir, capsys):
    assert main(["prepare", "--dataset=streets", f"--data_dir={streets_dir}"]) == 0
    out = capsys.readouterr().out
    assert "streets is already prepared: 12 train, 5 val, 19 classes" in out


def test_evaluate_prints_the_table_and_writes_files(workdir, capsys):
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    out = capsys.readouterr().out
    report = json.loads((workdir / "evaluation" / "val_whole.json").read_text())
    assert "traffic light" in out and f"{100 * report['mean_iou']:.2f}" in out
    trained = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert report["mean_iou"] == trained[-1]["val/mean_iou"] and 0 < report["mean_boundary_iou"] < 1
    with open(workdir / "evaluation" / "val_whole.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [row["name"] for row in report["classes"]]
    # Exact over the whole split: as many pixels as the labels have, whatever the batch size.
    pixels = sum(row["pixels"] for row in report["classes"])
    assert np.sum(report["confusion_matrix"]) == pixels
    assert main(["evaluate", f"--workdir={workdir}", "--batch_size=3", "--per_image"]) == 0
    assert "image by image: " in capsys.readouterr().out
    with open(workdir / "evaluation" / "val_whole_per_image.csv") as file:
        ious = [float(row["mean_iou"]) for row in csv.DictReader(file)]
    assert len(ious) == 5 and ious == sorted(ious)
    again = json.loads((workdir / "evaluation" / "val_whole.json").read_text())
    assert np.sum(again["confusion_matrix"]) == pixels


def test_evaluate_and_predict_at_another_size(workdir, tmp_path):
    """--base_size takes the place of the run's, and the run's own report stays."""
    own = workdir / "evaluation" / "val_whole.json"
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    before = own.read_bytes()
    assert main(["evaluate", f"--workdir={workdir}", "--base_size=64"]) == 0
    assert own.read_bytes() == before
    report = json.loads((workdir / "evaluation" / "val_whole_64.json").read_text())
    assert report["base_size"] == 64 and json.loads(before)["base_size"] == 0

    image = np.random.default_rng(0).integers(0, 255, (48, 96, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    argv = ["predict", f"--workdir={workdir}", f"--input={tmp_path / 'image.png'}", f"--output={tmp_path}"]
    assert main([*argv, "--base_size=64"]) == 0
    ids = np.asarray(Image.open(tmp_path / "ids" / "image.png"))
    model = dpanet_jax.load(workdir)
    network = models.build(len(model.classes.names), **sections(model.config).model)
    by_hand = Whole(network, base_size=64)
    np.testing.assert_array_equal(ids, by_hand.ids(image[None], model.variables)[0])
    assert (ids != model.predict(image)).any()


def test_predict_writes_three_pictures_an_image(workdir, tmp_path, capsys):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pictures = {"one.png": (40, 56), "sub/two.jpg": (32, 64)}
    for name, size in pictures.items():
        Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)).save(images / name)
    output = tmp_path / "out"
    assert main(["predict", f"--workdir={workdir}", f"--input={images}", f"--output={output}"]) == 0
    assert "2 images" in capsys.readouterr().out
    model = dpanet_jax.load(workdir)
    for name, size in pictures.items():
        stem = Path(name).with_suffix(".png")
        ids = np.asarray(Image.open(output / "ids" / stem))
        assert ids.shape == size and ids.dtype == np.uint8
        np.testing.assert_array_equal(ids, model.predict(np.asarray(Image.open(images / name))))
        color = np.asarray(Image.open(output / "color" / stem))
        np.testing.assert_array_equal(color, np.asarray(model.classes.colors)[ids])
        assert np.asarray(Image.open(output / "overlay" / stem)).shape == (*size, 3)
    single = [f"--input={images / 'one.png'}", f"--output={tmp_path / 'single'}"]
    assert main(["predict", f"--workdir={workdir}", *single]) == 0
    assert (tmp_path / "single" / "ids" / "one.png").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], "'trian' is not a verb: prepare, train, evaluate, predict"),
        (["train", DEMO], "--workdir is missing"),
        (["train", "--workdir=w"], "--config is missing"),
        (["train", "--config=no.py", "--workdir=w"], "--config=no.py: there is no such file"),
        (["train", DEMO, "--workdir=w", "--config.optimizer.lrr=1"], "config.optimizer.lrr is not a key"),
        (["train", DEMO, "--workdir=w", "--config.training.batch_size=many"], "batch_size=many"),
        (["train", DEMO, "--workdir=w", "--config.parallelism=none"], "choose one of jit, pmap"),
        (["train", DEMO, "--workdir=w", "--config.model.backbone=resnet19"], "backbone='resnet19'"),
        (["train", DEMO, "--workdir=w", "--config.training.batch_size=3"], "not a multiple of 8"),
        (["train", DEMO, "--workdir=w", "--worker=3"], "--worker is not a flag of train; did you mean"),
        (["train", DEMO, "--workdir=w", "stray"], "'stray' was not understood"),
        (
            ["train", DEMO, EIGHT, "--workdir=w", "--config.data.data_dir=nowhere"],
            "python -m dpanet_jax prepare --dataset=streets",
        ),
        (["train", DEMO, EIGHT, "--workdir=w", "--config.data.dataset=city"], "city"),
        (["prepare"], "--dataset is missing"),
        (["prepare", "--dataset=camvid", "--source=nowhere"], "nowhere: no such folder"),
        (["evaluate", "--workdir=nowhere"], "nowhere: not a workdir of dpanet_jax"),
        (["evaluate", "--workdir=w", "--protocol=slid"], "--protocol='slid': choose one of whole"),
        (["evaluate", "--workdir=az://bucket/run"], "az://bucket/run: only local paths"),
        (["train", DEMO, EIGHT, "--workdir=az://bucket/run"], "az://bucket/run: only local paths"),
        (["predict", "--workdir=w", "--input=az://b/i.png", "--output=o"], "az://b/i.png: only local paths"),
        (["prepare", "--dataset=streets", "--data_dir=az://b/data"], "az://b/data: only local paths"),
        (["train", "--config=dmo", "--workdir=w"], "did you mean demo?"),
        (
            ["train", DEMO, "--workdir=w", "--config.model.name=fcn"],
            "config.model.reduce_channels=64: no chosen",
        ),
        (["evaluate", "--workdir=w", "--base_size=-1"], "--base_size=-1"),
        (["predict", "--workdir=w", "--input=no.png", "--output=o"], "no.png: no such file or folder"),
    ],
)
def test_errors_are_one_clear_line(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) in (1, 2)
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("dpanet_jax: ") and "Traceback" not in captured.err
    assert len(captured.err.strip().splitlines()) <= 2
    assert not list(tmp_path.iterdir()), "nothing is written before the request is known to be sound"


def test_a_workdir_of_another_config(workdir, streets_dir, capsys):
    argv = ["train", *small(streets_dir), f"--workdir={workdir}", "--config.seed=7"]
    assert main(argv) == 2
    assert "holds a run with another config (seed: 0, now 7)" in capsys.readouterr().err


def test_evaluate_on_a_split_that_is_not_there(workdir, capsys):
    assert main(["evaluate", f"--workdir={workdir}", "--split=test"]) == 2
    assert "no split 'test'; it has train, val" in capsys.readouterr().err


def test_predict_names_a_file_that_is_no_image(workdir, tmp_path, capsys):
    (tmp_path / "bad.png").write_text("not an image")
    argv = [
        "predict",
        f"--workdir={workdir}",
        f"--input={tmp_path / 'bad.png'}",
        f"--output={tmp_path / 'o'}",
    ]
    assert main(argv) == 1
    assert "bad.png: not a PNG, JPEG, BMP, TIFF or WebP image" in capsys.readouterr().err


def test_a_reader_that_goes_is_no_error():
    argv = [sys.executable, "-m", "dpanet_jax", "--help"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("verb", ["prepare", "train", "evaluate", "predict"])
def test_help_of_each_verb(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: python -m dpanet_jax {verb}" in capsys.readouterr().out


def test_as_a_command_of_its_own():
    done = subprocess.run(
        [sys.executable, "-m", "dpanet_jax", "evaluate", "--workdir=nowhere"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "not a workdir" in done.stderr and "Traceback" not in done.stderr


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"dpanet_jax {__version__}")


def test_evaluation_files_and_checkpoints_say_who_wrote_them(workdir):
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    report = json.loads((workdir / "evaluation" / "val_whole.json").read_text())
    config = json.loads((workdir / "config.json").read_text())
    from dpanet_jax import checkpoint

    about = checkpoint.load_about(checkpoint.find(workdir))
    for written in (report, config, about):
        assert written["provenance"]["version"] == __version__
        assert "commit" in written["provenance"]


def test_a_mistake_of_the_package_shows_its_traceback(monkeypatch):
    """Only errors that a user can mend become a line."""
    from dpanet_jax.data import prepare

    def fail(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr(prepare, "prepare", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(["prepare", "--dataset=streets"])


def test_an_error_in_the_users_config_file_is_theirs(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def get_config():\n    return 1 / 0\n")
    assert main(["train", f"--config={tmp_path / 'mine.py'}", "--workdir=w"]) == 2
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_probabilities_of_a_trained_model(workdir):
    model = dpanet_jax.load(workdir)
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3)).astype(np.uint8)
    one, (two,) = model.probabilities(image), model.probabilities([image])
    assert one.shape == (40, 56, 19) and one.dtype == np.float32
    np.testing.assert_allclose(one.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(one.argmax(axis=-1), model.predict(image))
    np.testing.assert_array_equal(one, two)


def test_relative_data_folders_and_a_home(workdir, streets_dir, tmp_path, monkeypatch, capsys):
    """A run that was given a relative data_dir is evaluated from anywhere; `~` is the home in every path."""
    monkeypatch.chdir(streets_dir.parent)
    monkeypatch.setenv("HOME", str(tmp_path))
    argv = [word for word in small(streets_dir) if "data_dir" not in word]
    relative = f"--config.data.data_dir={streets_dir.name}"
    assert main(["train", *argv, relative, "--config.training.steps=1", "--workdir=~/run"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["data_dir"] == str(streets_dir)
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--workdir=~/run"]) == 0
    assert dpanet_jax.load("~/run").step == 1
    assert not list(tmp_path.glob("**/~*"))


def test_the_protocol_asked_for_is_run_reported_and_filed(workdir, monkeypatch, capsys):
    from dpanet_jax.evaluation import protocols

    class FirstClass(Whole):
        """Says class 0 everywhere."""

        name = "first_class"

        def ids(self, images, variables):
            return np.zeros(images.shape[:3], np.uint8)

    monkeypatch.setitem(protocols.PROTOCOLS, "first_class", FirstClass)
    own = workdir / "evaluation" / "val_whole.json"
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    before = own.read_bytes()
    assert main(["evaluate", f"--workdir={workdir}", "--protocol=first_class"]) == 0
    assert "protocol first_class" in capsys.readouterr().out
    report = json.loads((workdir / "evaluation" / "val_first_class.json").read_text())
    counts = np.array(report["confusion_matrix"])
    assert report["protocol"] == "first_class"
    assert counts[:, 0].sum() == counts.sum() > 0
    assert own.read_bytes() == before
    assert not dpanet_jax.load(workdir, protocol="first_class").predict(np.ones((8, 8, 3), np.uint8)).any()


def test_predict_goes_on_past_a_bad_file(workdir, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "c.jpg"):
        Image.new("RGB", (32, 16), (90, 90, 90)).save(tmp_path / "in" / name)
    (tmp_path / "in/b.png").write_text("not an image")
    argv = [
        "predict",
        f"--workdir={workdir}",
        f"--input={tmp_path / 'in'}",
        f"--output={tmp_path / 'in/out'}",
    ]
    for _ in range(2):  # Its own output is no input, the second time.
        assert main(argv) == 1
        captured = capsys.readouterr()
        assert f"2 images: ids, color and overlay are in {tmp_path / 'in/out'}" in captured.out
        assert "1 of 3 files could not be predicted\n" in captured.err
        assert f"  {tmp_path / 'in/b.png'}: not a PNG" in captured.err
    assert sorted(path.name for path in (tmp_path / "in/out/ids").iterdir()) == ["a.png", "c.png"]


def test_ids_of_predict_are_those_of_load_by_the_label_files_numbers(workdir, tmp_path, monkeypatch):
    from dpanet_jax.data.datasets.cityscapes import CITYSCAPES
    from dpanet_jax.evaluation.trained import TrainedModel

    made = TrainedModel.__init__

    def with_raw_ids(self, *arguments):
        made(self, *arguments)
        self.classes = CITYSCAPES

    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    monkeypatch.setattr(TrainedModel, "__init__", with_raw_ids)
    train_ids = dpanet_jax.load(workdir).predict(pixels)
    argv = ["predict", f"--workdir={workdir}", f"--input={tmp_path / 'x.png'}"]
    assert main([*argv, f"--output={tmp_path / 'raw'}"]) == 0
    assert main([*argv, f"--output={tmp_path / 'train'}", "--train_ids"]) == 0
    published = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    with Image.open(tmp_path / "raw/ids/x.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.array(published)[train_ids])
    with Image.open(tmp_path / "train/ids/x.png") as image:
        np.testing.assert_array_equal(np.asarray(image), train_ids)


def test_small_images_in_batches_have_the_labels_that_they_have_one_by_one(workdir, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(11):
        size = (24, 40) if i < 9 else (32, 32)
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"in/{i}.png")
    argv = ["predict", f"--workdir={workdir}", "--train_ids"]
    assert main([*argv, f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]) == 0
    model = dpanet_jax.load(workdir)
    for i in range(11):
        with Image.open(tmp_path / f"in/{i}.png") as image, Image.open(tmp_path / f"out/ids/{i}.png") as ids:
            np.testing.assert_array_equal(np.asarray(ids), model.predict(np.asarray(image)))


def test_prepare_takes_suffixes_and_says_what_it_found(tmp_path, capsys):
    for split in ("train", "val"):
        for kind, tail, pixels in (("images", "", (20, 40, 60)), ("labels", "_mask", 0)):
            folder = tmp_path / "source" / kind / split
            folder.mkdir(parents=True)
            picture = Image.new("RGB" if kind == "images" else "L", (8, 8), pixels)
            picture.putpixel((3, 4 if split == "val" else 5), 1 if kind == "labels" else (200, 0, 0))
            picture.save(folder / f"x{tail}.png")
    (tmp_path / "source/classes.csv").write_text("name,red,green,blue\na,1,2,3\nb,4,5,6\nc,7,8,9\n")
    argv = [
        "prepare",
        "--dataset=folder",
        f"--source={tmp_path / 'source'}",
        f"--data_dir={tmp_path / 'data'}",
    ]
    assert main(argv) == 1
    assert "give --label_suffix=_mask" in capsys.readouterr().err
    assert main([*argv, "--label_suffix=_mask"]) == 0
    out = capsys.readouterr().out
    assert "folder: labelled pixels" in out and "folder prepared: 1 train, 1 val, 3 classes" in out
    assert "note: train has not one pixel of 'c': the network cannot learn it\n" in out
    assert main(["prepare", "--dataset=streets", "--label_suffix=_mask"]) == 2
    assert "streets: label_suffix is not an option" in capsys.readouterr().err
