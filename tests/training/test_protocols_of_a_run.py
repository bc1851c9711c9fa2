"""Every protocol with one run: its own validation, `evaluate`, `predict` and `load`, which agree."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import dpanet_jax
from dpanet_jax.__main__ import main
from dpanet_jax.data.split import Split, open_split
from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.training import loop


@pytest.fixture(scope="module")
def workdir(make_config: Callable[[], ConfigDict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, which validates by windows, of which a scene of 64×128 has several."""
    config = make_config()
    config.training.steps = 2
    config.evaluation.protocol = "slide"
    config.evaluation.window = (40, 48)
    config.evaluation.scales = (0.5, 1.0)
    workdir = tmp_path_factory.mktemp("run")
    loop.train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def split(streets_dir: Path) -> Split:
    return open_split("streets", "val", streets_dir)


def report(workdir: Path, name: str) -> dict:
    return json.loads((workdir / "evaluation" / f"val_{name}.json").read_text())


def test_the_run_s_own_validation_is_evaluate_s(workdir: Path) -> None:
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = report(workdir, "slide")
    assert found["mean_iou"] == logged[-1]["val/mean_iou"]
    assert found["protocol"] == "slide" and found["window"] == [40, 48]


@pytest.mark.parametrize("protocol", ["slide", "multiscale", "center_crop"])
def test_evaluate_predict_and_load_agree(
    protocol: str, workdir: Path, split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = dpanet_jax.load(workdir, protocol=protocol)
    matrix = ConfusionMatrix(len(split.classes))
    (tmp_path / "in").mkdir()
    for i in range(len(split)):
        image, label = split[i]["image"], split[i]["label"]
        Image.fromarray(image).save(tmp_path / f"in/{i}.png")
        images, labels = model.protocol.measured(image[None], label[None])
        matrix.update(labels[0], model.predict(images[0]))
    assert main(["evaluate", f"--workdir={workdir}", f"--protocol={protocol}", "--batch_size=3"]) == 0
    assert report(workdir, protocol)["confusion_matrix"] == matrix.counts.tolist()
    argv = ["predict", f"--workdir={workdir}", f"--protocol={protocol}", "--train_ids"]
    assert main([*argv, f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]) == 0
    assert "is compiled for" not in capsys.readouterr().out
    for i in range(len(split)):
        with Image.open(tmp_path / f"out/ids/{i}.png") as ids, Image.open(tmp_path / f"in/{i}.png") as image:
            np.testing.assert_array_equal(np.asarray(ids), model.predict(np.asarray(image)))
            assert (np.asarray(ids) == 255).any() == (protocol == "center_crop")


def test_whole_says_beforehand_what_it_compiles(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", f"--workdir={workdir}", "--protocol=whole"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("protocol whole: the network is compiled for 1 size of images\n")


def test_the_windows_of_the_command_line(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is advised where memory does not suffice can be given, and is filed as what it is."""
    argv = ["evaluate", f"--workdir={workdir}", "--protocol=slide"]
    assert main([*argv, "--window=24,32", "--window_batch=2"]) == 0
    together = report(workdir, "slide_24x32")
    assert main([*argv, "--window=24,32"]) == 0
    one_by_one = report(workdir, "slide_24x32")
    assert together["confusion_matrix"] == one_by_one["confusion_matrix"]
    assert together["window"] == [24, 32]
    assert main([*argv, "--window_batch=2"]) == 0
    assert report(workdir, "slide")["window"] == [40, 48]
    assert main([*argv, "--window=24"]) == 2
    assert "window=(24,): must have 2 values" in capsys.readouterr().err
    assert main([*argv, "--window=24,wide"]) == 2
    assert "--window=24,wide: must be HEIGHT,WIDTH" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["slide", "multiscale", "center_crop"])
def test_memory_that_does_not_suffice_names_the_windows(
    protocol: str,
    workdir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dpanet_jax.evaluation.protocols import center_crop, slide

    def full(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")

    for module in (slide, center_crop):
        monkeypatch.setattr(module, "run", full)
    Image.new("RGB", (64, 48)).save(tmp_path / "x.png")
    common = [f"--workdir={workdir}", f"--protocol={protocol}"]
    capsys.readouterr()
    for argv in (
        ["evaluate", *common],
        ["predict", *common, f"--input={tmp_path / 'x.png'}", f"--output={tmp_path / 'out'}"],
    ):
        for more, advice in (
            ([], "lower the window, now 40,48 (--window, config.evaluation.window)"),
            (["--window_batch=3"], "lower the windows at a time, now 3 (--window_batch, config.evalu"),
        ):
            assert main([*argv, *more]) == 1
            (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("dpanet_jax: ")]
            assert "the memory does not suffice" in line and advice in line


def test_a_run_says_before_it_begins_that_whole_compiles_for_many_sizes(
    workdir: Path,
    make_config: Callable[[], ConfigDict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The validation split has one size, which is taken for many here. By windows nothing is said."""
    from dpanet_jax.evaluation import protocols

    monkeypatch.setattr(protocols, "MANY_SIZES", 1)
    shutil.copytree(workdir, tmp_path / "run")
    for protocol in ("whole", "slide"):
        config = make_config()
        config.training.steps = 2
        config.evaluation.protocol = protocol
        loop.train(config, tmp_path / "run")
        said = capsys.readouterr().out
        words = "protocol whole: the network is compiled for 1 size of images; slide (--protocol, config.eval"
        assert (words in said) == (protocol == "whole")
