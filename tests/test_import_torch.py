"""`import-torch`: what was exported comes back as a workdir that every verb takes; else one line says why."""

import hashlib
import json
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import dpanet_jax
from dpanet_jax import checkpoint
from dpanet_jax.__main__ import main

DEMO = f"--config={Path(__file__).parent.parent / 'configs' / 'demo.py'}"


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
def trained(streets_dir, tmp_path_factory):
    """(a run of two steps, its weights as `export-torch` writes them)."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", *small(streets_dir), f"--workdir={folder / 'run'}"]) == 0
    file = folder / "weights.safetensors"
    assert main(["export-torch", f"--workdir={folder / 'run'}", f"--output={file}"]) == 0
    return folder / "run", file


@pytest.fixture(scope="module")
def imported(streets_dir, trained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("imported") / "run"
    argv = ["import-torch", *small(streets_dir), f"--weights={trained[1]}", f"--workdir={workdir}"]
    assert main(argv) == 0
    return workdir


def report_of(workdir):
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    return json.loads((workdir / "evaluation" / "val_whole.json").read_text())


def test_it_is_evaluated_as_what_was_exported(trained, imported):
    ours, theirs = report_of(imported), report_of(trained[0])
    assert ours["confusion_matrix"] == theirs["confusion_matrix"] and ours["step"] == 0
    assert ours["mean_iou"] == theirs["mean_iou"]


def test_it_predicts_loads_and_exports_as_what_was_exported(trained, imported, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "one.png")
    ids = []
    for i, workdir in enumerate((trained[0], imported)):
        output = tmp_path / str(i)
        argv = ["predict", f"--workdir={workdir}", f"--input={tmp_path / 'in'}", f"--output={output}"]
        assert main(argv) == 0
        ids.append(np.asarray(Image.open(next((output / "ids").iterdir()))))
    np.testing.assert_array_equal(*ids)
    models = [dpanet_jax.load(workdir) for workdir in (trained[0], imported)]
    jax.tree.map(np.testing.assert_array_equal, *(model.variables for model in models))
    assert models[0].classes == models[1].classes and models[1].step == 0
    again = tmp_path / "again.safetensors"
    assert main(["export-torch", f"--workdir={imported}", f"--output={again}"]) == 0
    expected = load_file(trained[1])
    assert load_file(again).keys() == expected.keys()
    for name, value in load_file(again).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_it_says_where_it_came_from(trained, imported):
    sha256 = hashlib.sha256(trained[1].read_bytes()).hexdigest()
    about = checkpoint.load_about(checkpoint.find(imported))
    config = json.loads((imported / "config.json").read_text())
    for provenance in (about["provenance"], config["provenance"]):
        assert provenance["imported"] == {"file": str(trained[1]), "sha256": sha256}
        assert "version" in provenance


def test_training_starts_from_it(trained, imported, streets_dir, tmp_path):
    """The same as a run that names the file as its pretrained weights; the file is not needed any more."""
    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(imported, one)
    assert main(["train", *small(streets_dir), f"--workdir={one}"]) == 0
    pretrained = f"--config.model.pretrained={trained[1]}"
    assert main(["train", *small(streets_dir), pretrained, f"--workdir={other}"]) == 0
    models = [dpanet_jax.load(workdir, "latest") for workdir in (one, other)]
    assert [model.step for model in models] == [2, 2]
    jax.tree.map(np.testing.assert_array_equal, *(model.variables for model in models))
    config = json.loads((one / "config.json").read_text())
    assert config["provenance"]["imported"]["file"] == str(trained[1])


def classes_file(path, count):
    rows = [f"class {i},{i},{i},{i}" for i in range(count)]
    path.write_text("\n".join(["name,red,green,blue", *rows]) + "\n")
    return path


def test_classes_of_a_file(trained, streets_dir, tmp_path, capsys):
    """Where no data set is prepared; a data set of other classes is refused later."""
    argv = [word for word in small(streets_dir) if "data_dir" not in word]
    argv = ["import-torch", *argv, f"--config.data.data_dir={tmp_path / 'empty'}"]
    argv += [f"--weights={trained[1]}", f"--workdir={tmp_path / 'run'}"]
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert "--classes=classes.csv" in message and "prepare --dataset=streets" in message
    assert not (tmp_path / "run").exists()
    csv = classes_file(tmp_path / "classes.csv", 19)
    assert main([*argv, f"--classes={csv}"]) == 0
    model = dpanet_jax.load(tmp_path / "run")
    assert model.classes.names == tuple(f"class {i}" for i in range(19))
    assert model.predict(np.zeros((32, 32, 3), np.uint8)).shape == (32, 32)


@pytest.mark.parametrize("count", [2, 150])
def test_another_number_of_classes_is_told_by_both_numbers(trained, streets_dir, tmp_path, capsys, count):
    argv = ["import-torch", *small(streets_dir), f"--config.data.data_dir={tmp_path / 'empty'}"]
    csv = classes_file(tmp_path / "classes.csv", count)
    argv += [f"--weights={trained[1]}", f"--workdir={tmp_path / 'run'}", f"--classes={csv}"]
    assert main(argv) == 1
    message = capsys.readouterr().err
    assert f"is for 19 classes, and there are {count} here" in message
    assert len(message.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.csv"]


def test_what_is_refused(trained, imported, streets_dir, tmp_path, capsys):
    def message_of(status, *more, weights=trained[1], workdir=tmp_path / "run"):
        argv = ["import-torch", *small(streets_dir), f"--weights={weights}", f"--workdir={workdir}", *more]
        assert main(argv) == status
        assert not (tmp_path / "run").exists()
        message = capsys.readouterr().err
        assert len(message.splitlines()) == 1
        return message

    before = {path: path.stat().st_mtime for path in imported.rglob("*")}
    assert f"{imported} is there already and is not empty" in message_of(2, workdir=imported)
    assert {path: path.stat().st_mtime for path in imported.rglob("*")} == before
    assert "is a file: --workdir must be a folder" in message_of(2, workdir=trained[1])
    assert "there is no such file" in message_of(1, weights=tmp_path / "no.safetensors")
    csv = classes_file(tmp_path / "classes.csv", 19)
    assert "leave --classes out" in message_of(2, f"--classes={csv}")
    assert "config.model.width" in message_of(1, "--config.model.width=4")
    assert "config.model.fusion='concat'" in message_of(1, "--config.model.fusion=sum")
    # A backbone alone would leave heads of random numbers, which every verb would take.
    backbone = {
        name.removeprefix("pretrained."): value
        for name, value in load_file(trained[1]).items()
        if name.startswith("pretrained.")
    }
    save_file(backbone, tmp_path / "backbone.safetensors")
    message = message_of(1, weights=tmp_path / "backbone.safetensors")
    assert "holds the backbone alone" in message and "--config.model.pretrained=" in message
    with pytest.raises(SystemExit):
        main(["import-torch", "--help"])
    assert "--weights" in capsys.readouterr().out
    assert main(["import-torch", *small(streets_dir), f"--workdir={tmp_path / 'run'}"]) == 2


def test_training_on_another_number_of_classes(trained, streets_dir, tmp_path, capsys):
    """The flag that the error ends with, given as it stands, starts the run."""
    weights = load_file(trained[1])
    for name in weights:
        if name.startswith(("head.conv6", "head.conv7", "head.conv8")):
            weights[name] = np.concatenate([weights[name], weights[name][:2]])
    file = tmp_path / "weights.safetensors"
    save_file(weights, file)
    argv = ["train", *small(streets_dir), "--config.training.steps=1", f"--config.model.pretrained={file}"]
    assert main([*argv, f"--workdir={tmp_path / 'run'}"]) == 1
    message = capsys.readouterr().err
    assert "the file is for 21 classes and the model for 19" in message
    (flag,) = shlex.split(message[message.index("--config.model.pretrained_missing") :])
    assert main([*argv, flag, f"--workdir={tmp_path / 'run'}"]) == 0


def test_a_file_without_auxiliary_head(trained, streets_dir, tmp_path, capsys):
    """Both pieces of advice work to the letter."""
    argv = ["import-torch", *small(streets_dir), "--config.model.auxiliary=True", f"--weights={trained[1]}"]
    has_none = main([*argv, f"--workdir={tmp_path / 'run'}"])
    message = capsys.readouterr().err
    assert has_none == 1 and "the file has no auxiliary head: give --config.model.auxiliary=False" in message
    flags = [word.strip(",;") for word in shlex.split(message.replace("'s", "s")) if "--config" in word]
    assert len(flags) == 2
    for i, flag in enumerate(flags):
        assert main([*argv, flag, f"--workdir={tmp_path / str(i)}"]) == 0, flag
