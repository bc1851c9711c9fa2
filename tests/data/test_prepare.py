"""`prepare`: every error names its files, and a data set is either whole or not there."""

import os
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dpanet_jax.data
from dpanet_jax.data.builders.listing import DataError
from dpanet_jax.data.location import DatasetNotFound, dataset_dir
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare

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
    return "labels/val/0000.png: not a PNG or JPEG image"


def unknown_id(source):
    Image.new("L", (32, 24), 3).save(source / "labels/val/0000.png")
    return (
        "labels/val/0000.png: label id 3 is not one of the 3 classes or ignored;"
        " a row named ignore in classes.csv leaves an id out"
    )


def colour_label(source):
    Image.new("RGB", (32, 24)).save(source / "labels/val/0000.png")
    return "labels/val/0000.png: pixels of kind RGB; a label must be an 8-bit grey or palette PNG"


def deep_label(source):
    Image.new("I;16", (32, 24)).save(source / "labels/val/0000.png")
    return "labels/val/0000.png: pixels of kind I;16"


def shallow_label(source):
    Image.new("1", (32, 24)).save(source / "labels/val/0000.png")
    return "labels/val/0000.png: pixels of kind 1-bit grey"


def jpeg_label(source):
    Image.new("L", (32, 24)).save(source / "labels/val/0000.png", format="JPEG")
    return "labels/val/0000.png: a JPEG file; labels must be PNG"


def deep_image(source):
    Image.new("I;16", (32, 24)).save(source / "images/val/0000.png")
    return "images/val/0000.png: pixels of kind I;16; save it as 8-bit RGB"


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
    with pytest.raises(ValueError, match=message):
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
    with pytest.raises(ValueError, match="folder takes no option num_train"):
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
            "dpanet_jax.data.builders.segmentation._grey_png",
            lambda encoded: (_ for _ in ()).throw(OSError("disk full")),
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
    from dpanet_jax.data.builders import segmentation
    from dpanet_jax.data import prepare
    calls, read = [], segmentation._grey_png
    def die_at_third(encoded):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(encoded)
    segmentation._grey_png = die_at_third
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
        with pytest.raises(BlockingIOError, match="another process is preparing"):
            prepare("folder", data, source, quiet=True)
        holder.stdin.close()
    assert not prepare("folder", data, source, quiet=True).already


def test_streets_are_drawn_and_take_the_path_of_a_folder(tmp_path, make_folder, monkeypatch):
    drawn = []

    def write_streets(folder, num_train=4, num_val=2, size=(24, 32), seed=0):
        drawn.append((folder, num_train, num_val, size, seed))
        make_folder(folder, counts=(("train", num_train), ("val", num_val)), size=size)

    fake = types.ModuleType("dpanet_jax.data.streets")
    fake.write_streets = write_streets
    monkeypatch.setitem(sys.modules, "dpanet_jax.data.streets", fake)
    data = tmp_path / "data"
    summary = prepare("streets", data, quiet=True)
    assert summary.splits == {"train": 4, "val": 2}
    assert drawn == [(data / "downloads" / "streets", 4, 2, (24, 32), 0)]
    assert open_split("streets", "val", data)[1]["image"].shape == (24, 32, 3)

    assert prepare("streets", data, quiet=True).already
    assert prepare("streets", data, quiet=True, size=(24, 32)).already
    with pytest.raises(ValueError, match="was prepared with {'num_train': 4.*use --overwrite"):
        prepare("streets", data, quiet=True, num_train=6)
    with pytest.raises(ValueError, match="streets has no option trees; it has num_train, num_val"):
        prepare("streets", data, quiet=True, trees=6)
    again = prepare("streets", data, tmp_path / "kept", True, quiet=True, num_train=6)
    assert again.splits == {"train": 6, "val": 2} and len(drawn) == 2
    assert (tmp_path / "kept" / "images").is_dir()


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
        next(pipeline.train_batches(split, batch_size=2, crop_size=(8, 8), base_size=32, seed=0))
        for batch in pipeline.eval_batches(split, 2):
            pass
        assert "tensorflow" not in sys.modules
    """
    done = run_script(script, source, TFDS_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("folder prepared: 5 train, 3 val, 3 classes, in")
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert dataset_dir("folder", tmp_path / "data").is_dir()
