"""`prepare`: every error names its files, and a data set is either whole or not there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dpanet_jax.data
from dpanet_jax.data import pipeline
from dpanet_jax.data.datasets import DATASETS, DataSet, register
from dpanet_jax.data.datasets.folder import list_folder
from dpanet_jax.data.listing import DataError, Listing, Pair
from dpanet_jax.data.location import DatasetNotFound, dataset_dir
from dpanet_jax.data.options import Augmentation
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import PreparedElsewhere, prepare
from dpanet_jax.errors import DPANetError

ROOT = Path(dpanet_jax.data.__file__).parents[2]


def run_script(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


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


def wrong_size(source):
    Image.new("L", (8, 9)).save(source / "labels/train/0001.png")
    return "0001.png is 32x24 and .*0001.png is 8x9: sizes differ"


def truncated_image(source):
    path = source / "images/train/0001.png"
    path.write_bytes(path.read_bytes()[:-40])
    return "images/train/0001.png: unreadable"


def truncated_jpeg(source):
    path = source / "images/train/0001.png"
    image = Image.open(path).resize((64, 48)).resize((32, 24))
    path.unlink()
    image.save(path.with_suffix(".jpg"))
    encoded = path.with_suffix(".jpg").read_bytes()
    path.with_suffix(".jpg").write_bytes(encoded[: len(encoded) - 60])
    return "images/train/0001.jpg: unreadable"


def not_an_image(source):
    (source / "labels/val/0000.png").write_text("not a picture")
    return "labels/val/0000.png: not a PNG, JPEG, BMP, TIFF or WebP image"


def unknown_id(source):
    Image.new("L", (32, 24), 3).save(source / "labels/val/0000.png")
    return (
        "labels/val/0000.png: label id 3 is not one of the 3 classes or ignored;"
        " a row named ignore in classes.csv leaves an id out"
    )


def colour_label(source):
    Image.new("RGB", (32, 24), (9, 8, 7)).save(source / "labels/val/0000.png")
    return r"labels/val/0000.png: colour \(9, 8, 7\) is not in classes.csv"


def deep_label(source):
    Image.fromarray(np.full((24, 32), 700, np.uint16)).save(source / "labels/val/0000.png")
    return "labels/val/0000.png: label id 700; ids are 0 to 255"


def shallow_label(source):
    (source / "classes.csv").write_text("name,red,green,blue,id\na,1,2,3,0\nb,4,5,6,2\nc,7,8,9,3\n")
    for path in (source / "labels").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * 2 % 4).save(path)
    Image.new("1", (32, 24), 1).save(source / "labels/val/0000.png")
    return "labels/val/0000.png: label id 1 is not one of the 3 classes"


def jpeg_label(source):
    Image.new("L", (32, 24)).save(source / "labels/val/0000.png", format="JPEG")
    return "labels/val/0000.png: a JPEG file; labels must be PNG"


def deep_image(source):
    Image.new("F", (32, 24)).save(source / "images/val/0000.png", format="TIFF")
    return "images/val/0000.png: pixels of kind F, fractions"


def lone_image(source):
    (source / "labels/val/0000.png").unlink()
    return "images/val/0000.png: image without a label"


def lone_label(source):
    (source / "images/val/0000.png").unlink()
    return "labels/val/0000.png: label without an image"


@pytest.mark.parametrize(
    "damage",
    [
        wrong_size,
        truncated_image,
        truncated_jpeg,
        not_an_image,
        unknown_id,
        colour_label,
        deep_label,
        shallow_label,
        jpeg_label,
        deep_image,
        lone_image,
        lone_label,
    ],
)
def test_a_damaged_source_is_named_and_nothing_is_written(tmp_path, make_folder, damage):
    source = make_folder(tmp_path / "source")
    message = damage(source)
    with pytest.raises(DataError, match=message):
        prepare("folder", tmp_path / "data", source, quiet=True)
    assert not (tmp_path / "data").exists()


def test_all_problems_are_collected_and_ten_are_shown(tmp_path, make_folder):
    source = make_folder(tmp_path / "source", counts=(("train", 14), ("val", 1)))
    for i in range(12):
        Image.new("L", (32, 24), 200 + i).save(source / f"labels/train/{i:04}.png")
    (source / "labels/train/0013.png").unlink()
    with pytest.raises(DataError) as error:
        prepare("folder", tmp_path / "data", source, quiet=True)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{source}: 13 problems"
    assert len(lines) == 12 and lines[-1] == "  and 3 more"
    assert "0013.png: image without a label" in lines[1]
    assert len(error.value.problems) == 13


def test_what_is_wrong_with_many_files_is_said_once(tmp_path, make_folder):
    source = make_folder(tmp_path / "source")
    for path in (source / "images").rglob("*.png"):
        path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError) as error:
        prepare("folder", tmp_path / "data", source, quiet=True)
    first, line = str(error.value).splitlines()
    assert first == f"{source}: 8 problems" and len(error.value.problems) == 8
    assert line.startswith(f"  {source / 'images/train/0000.png'} and 7 more: not a PNG")


def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path, make_folder):
    source = make_folder(tmp_path / "source", counts=(("train", 40), ("val", 3)))
    script = """
        import resource, sys
        from dpanet_jax.__main__ import main
        from dpanet_jax.data import storage
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        source, data = sys.argv[1:]
        sys.exit(main(["prepare", "--dataset=folder", f"--source={source}", f"--data_dir={data}"]))
    """
    done = run_script(script, source, tmp_path / "data")
    target = dataset_dir("folder", tmp_path / "data")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"dpanet_jax: {target}: not written (File too large); nothing of it is left"
    assert "Traceback" not in done.stderr
    assert [path.name for path in target.parent.iterdir()] == [".lock"]


def test_an_archive_for_a_source(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="data.zip: a file; unpack it, and name the folder with --source"):
        prepare("folder", tmp_path / "data", tmp_path / "data.zip", quiet=True)


def test_names_that_are_not_text(tmp_path, make_folder):
    source = make_folder(tmp_path / "source")
    odd = os.fsdecode(b"caf\xe9")
    for kind in ("images", "labels"):
        (source / kind / "val/0000.png").rename(source / kind / "val" / f"{odd}.png")
    prepare("folder", tmp_path / "data", source, quiet=True)
    assert [e["name"] for e in open_split("folder", "val", tmp_path / "data")] == ["0001", "0002", odd]


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
        ("cityscape", "unknown data set 'cityscape'; it is one of streets, camvid, folder"),
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


def test_prepared_already(tmp_path, make_folder):
    source, other = make_folder(tmp_path / "source"), make_folder(tmp_path / "other")
    first = prepare("folder", tmp_path / "data", source, quiet=True)
    records = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    again = prepare("folder", tmp_path / "data", source, quiet=True)
    assert again.already and "is already prepared" in str(again) and "--overwrite" in str(again)
    assert again.fingerprint == first.fingerprint and again.splits == first.splits
    assert prepare("folder", tmp_path / "data", quiet=True).already
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == records
    with pytest.raises(ValueError, match="was prepared from .*source; use --overwrite to replace it"):
        prepare("folder", tmp_path / "data", other, quiet=True)
    with pytest.raises(ValueError, match="folder: num_train is not an option; the options are image_suffix"):
        prepare("folder", tmp_path / "data", source, quiet=True, num_train=3)


def test_overwrite_replaces_and_keeps_the_old_one_on_failure(tmp_path, make_folder, monkeypatch):
    source = make_folder(tmp_path / "source")
    first = prepare("folder", tmp_path / "data", source, quiet=True)
    unknown_id(source)
    with pytest.raises(DataError):
        prepare("folder", tmp_path / "data", source, overwrite=True, quiet=True)
    assert open_split("folder", "val", tmp_path / "data")[0]["label"].max() <= 2

    make_folder(source, counts=(("train", 7), ("val", 3)))
    with monkeypatch.context() as patch:
        patch.setattr(
            "dpanet_jax.data.storage.SegmentationBuilder._label",
            lambda *_: (error for error in ()).throw(OSError("disk full")),
        )
        with pytest.raises(OSError, match="disk full"):
            prepare("folder", tmp_path / "data", source, overwrite=True, quiet=True)
    assert len(open_split("folder", "train", tmp_path / "data")) == 5

    second = prepare("folder", tmp_path / "data", source, overwrite=True, quiet=True)
    assert second.splits == {"train": 7, "val": 3} and not second.already
    assert second.fingerprint != first.fingerprint
    assert len(open_split("folder", "train", tmp_path / "data")) == 7
    assert {path.name for path in second.path.parent.iterdir()} == {".lock", "1.0.0"}


_KILLED = """
    import os, signal, sys
    from dpanet_jax.data import prepare, storage
    calls, read = [], storage.SegmentationBuilder._label
    def die_at_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(*arguments)
    storage.SegmentationBuilder._label = die_at_third
    prepare.prepare("folder", sys.argv[1], sys.argv[2], overwrite=len(sys.argv) > 3, quiet=True)
"""


def test_a_killed_run_is_never_taken_for_a_data_set(tmp_path, make_folder):
    source, data = make_folder(tmp_path / "source"), tmp_path / "data"
    assert run_script(_KILLED, data, source).returncode == -signal.SIGKILL
    staging = dataset_dir("folder", data).parent / ".incomplete"
    assert staging.is_dir()
    with pytest.raises(DatasetNotFound, match="is not prepared in"):
        open_split("folder", "train", data)
    assert not prepare("folder", data, source, quiet=True).already
    assert not staging.exists()

    assert run_script(_KILLED, data, source, "overwrite").returncode == -signal.SIGKILL
    assert len(open_split("folder", "train", data)) == 5


def test_an_overwrite_killed_between_its_renames_is_undone(tmp_path, make_folder):
    source, data = make_folder(tmp_path / "source"), tmp_path / "data"
    target = prepare("folder", data, source, quiet=True).path
    target.rename(target.parent / ".replaced")
    assert prepare("folder", data, source, quiet=True).already
    assert len(open_split("folder", "train", data)) == 5


def test_two_at_once_do_not_disturb_each_other(tmp_path, make_folder):
    source, data = make_folder(tmp_path / "source"), tmp_path / "data"
    target = dataset_dir("folder", data)
    target.parent.mkdir(parents=True)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
            " print('held', flush=True); sys.stdin.read()",
            str(target.parent / ".lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match="another process is preparing") as error:
            prepare("folder", data, source, quiet=True)
        assert isinstance(error.value, PreparedElsewhere) and isinstance(error.value, DPANetError)
        holder.stdin.close()
    assert not prepare("folder", data, source, quiet=True).already


def test_streets_are_drawn_and_take_the_path_of_a_folder(tmp_path, make_folder, monkeypatch):
    drawn = []

    def write_streets(folder, *, num_train, num_val, size, seed, classes, ignore_label, progress):
        assert len(classes) == 19 and classes[0] == ("road", [128, 64, 128]) and ignore_label == 255
        drawn.append((folder, num_train, num_val, size, seed, progress))
        make_folder(folder, counts=(("train", num_train), ("val", num_val)))

    monkeypatch.setattr("dpanet_jax.streets.write_streets", write_streets)
    data, few = tmp_path / "data", dict(num_train=4, num_val=2, size=[24, 32])
    assert prepare("streets", data, quiet=True, **few).splits == {"train": 4, "val": 2}
    assert drawn == [(data / "downloads" / "streets", 4, 2, (24, 32), 0, False)]
    assert open_split("streets", "val", data)[1]["image"].shape == (24, 32, 3)

    assert prepare("streets", data, quiet=True).already
    assert prepare("streets", data, quiet=True, **few).already
    with pytest.raises(DPANetError, match="was prepared with {'num_train': 4.*use --overwrite"):
        prepare("streets", data, quiet=True, num_train=6)
    with pytest.raises(
        DPANetError, match="streets: trees is not an option; the options are num_train, num_val"
    ):
        prepare("streets", data, quiet=True, trees=6)
    with pytest.raises(DPANetError, match="streets: num_train=0: must be at least 1"):
        prepare("streets", data, quiet=True, num_train=0)
    again = prepare("streets", data, tmp_path / "kept", True, quiet=True, num_train=6, num_val=2)
    assert again.splits == {"train": 6, "val": 2} and len(drawn) == 2
    assert (tmp_path / "kept" / "images").is_dir()


def test_streets_of_an_earlier_version_are_known_again(tmp_path):
    """Their options also held how they were drawn."""
    first = prepare("streets", tmp_path, quiet=True, num_train=1, num_val=1, size=(16, 16))
    path = first.path / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["unlabelled"]
    metadata["options"] |= {"processes": None, "progress": True}
    path.write_text(json.dumps(metadata))
    again = prepare("streets", tmp_path, quiet=True, num_train=1, num_val=1, size=(16, 16))
    assert again.already and again.unlabelled == ()
    assert "label" in open_split("streets", "train", tmp_path)[0]


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


def without_labels(source):
    shutil.rmtree(source / "labels/test")


def with_lists(source):
    for split in ("train", "val", "test"):
        names = sorted(path.name for path in (source / "images" / split).iterdir())
        (source / f"{split}.txt").write_text("".join(f"{split}/{name}\n" for name in names))
    without_labels(source)


@pytest.mark.parametrize("form", [without_labels, with_lists])
def test_a_test_split_may_have_no_labels(tmp_path, make_folder, form):
    source = make_folder(tmp_path / "source", counts=(("train", 3), ("val", 2), ("test", 2)))
    labelled = prepare("folder/labelled", tmp_path / "data", source, quiet=True)
    form(source)
    summary = prepare("folder", tmp_path / "data", source, quiet=True)
    assert summary.splits == {"train": 3, "val": 2, "test": 2} and summary.unlabelled == ("test",)
    assert "3 train, 2 val, 2 test (without labels), 3 classes" in str(summary)
    assert summary.fingerprint != labelled.fingerprint and "without labels" not in str(labelled)

    test = open_split("folder", "test", tmp_path / "data")
    assert not test.labelled and len(test) == 2 and test.sizes == ((24, 32), (24, 32))
    assert test[0].keys() == {"image", "name"}
    image = np.asarray(Image.open(source / "images/test/0001.png"))
    np.testing.assert_array_equal(test[1]["image"], image)

    train = open_split("folder", "train", tmp_path / "data")
    assert train.labelled and "label" in train[0]
    for split in (test, open_split("folder", "train+test", tmp_path / "data")):
        assert not split.labelled and "label" not in split[0]
        refusals = []
        with pytest.raises(pipeline.UnlabelledSplit, match="has no labels.* predict") as error:
            pipeline.eval_batches(split, 1)
        refusals.append(error.value)
        with pytest.raises(pipeline.UnlabelledSplit, match="has no labels.* predict") as error:
            pipeline.train_batches(split, Augmentation(), batch_size=1, seed=0)
        refusals.append(error.value)
        for refusal in refusals:
            assert isinstance(refusal, DPANetError) and "\n" not in str(refusal)


def test_camvid_without_labels_of_test(tmp_path, make_camvid):
    source = make_camvid(tmp_path / "source")
    shutil.rmtree(source / "testannot")
    assert prepare("camvid", tmp_path / "data", source, quiet=True).unlabelled == ("test",)


@pytest.mark.parametrize("split", ["train", "val"])
def test_train_and_val_need_labels(tmp_path, make_folder, split):
    source = make_folder(tmp_path / "source")
    shutil.rmtree(source / "labels" / split)
    with pytest.raises(DataError, match=f"labels/{split}: no such folder"):
        prepare("folder", tmp_path / "data", source, quiet=True)


@pytest.mark.parametrize("lists", [False, True])
def test_some_labels_are_too_few(tmp_path, make_folder, lists):
    source = make_folder(tmp_path / "source", counts=(("train", 2), ("val", 1), ("test", 2)))
    if lists:
        for split, count in (("train", 2), ("val", 1), ("test", 2)):
            (source / f"{split}.txt").write_text("".join(f"{split}/{i:04}\n" for i in range(count)))
    (source / "labels/test/0000.png").unlink()
    with pytest.raises(DataError, match="images/test/0000.png: image without a label"):
        prepare("folder", tmp_path / "data", source, quiet=True)


def test_an_unlabelled_split_needs_no_tensorflow(tmp_path, make_folder):
    source = make_folder(tmp_path / "source", counts=(("train", 1), ("val", 1), ("test", 2)))
    without_labels(source)
    script = """
        import sys
        from dpanet_jax.data.prepare import prepare
        prepare("folder", sys.argv[2], sys.argv[1], quiet=True)
        from dpanet_jax.data.split import open_split
        print([example["image"].shape for example in open_split("folder", "test", sys.argv[2])])
        assert "tensorflow" not in sys.modules
    """
    done = run_script(script, source, tmp_path / "data")
    assert (done.stdout, done.stderr) == ("[(24, 32, 3), (24, 32, 3)]\n", "")


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
    for arguments in (("folder", "gs://bucket/data"), ("folder", "data", "gs://bucket/source")):
        with pytest.raises(DPANetError, match="gs://bucket/.*only local paths"):
            prepare(*arguments, quiet=True)
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/data")
    with pytest.raises(DPANetError, match="only local paths"):
        open_split("folder", "train")


def test_preparing_leaves_the_warnings_as_they_are(tmp_path, make_folder):
    source = make_folder(tmp_path / "source", counts=(("train", 20), ("val", 5)))
    before = list(warnings.filters)
    prepare("folder", tmp_path / "data", source, quiet=True)
    assert list(warnings.filters) == before


def test_no_tensorflow_no_network_and_no_jax_to_prepare(tmp_path, make_folder):
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
