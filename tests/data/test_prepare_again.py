"""`prepare` a second time, twice at once, and killed: a data set is either whole or not there."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import dpanet_jax.data
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.location import DatasetNotFound, dataset_dir
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import PreparedElsewhere, prepare
from dpanet_jax.errors import DPANetError

ROOT = Path(dpanet_jax.data.__file__).parents[2]


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
    Image.new("L", (32, 24), 3).save(source / "labels/val/0000.png")  # 3 is no class.
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


def test_a_killed_run_is_never_taken_for_a_data_set(tmp_path, make_folder, run_script):
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
