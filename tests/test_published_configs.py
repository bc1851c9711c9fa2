"""The configs of published data sets train, at tiny widths, on small archives of the published layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "--config.model.width=8",
    "--config.model.reduce_channels=8",
    "--config.model.output_stride=16",
    "--config.data.crop_size=(32,32)",
    "--config.data.base_size=64",
    "--config.training.epochs=0",
    "--config.training.steps=2",
    "--config.evaluation.batch_size=8",
    "--config.log_every_steps=1",
    "--config.pictures=0",
)


@pytest.fixture(scope="module")
def cityscapes_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes")
    rng = np.random.default_rng(0)
    for split, city, count in (("train", "aachen", 8), ("val", "lindau", 2)):
        for i in range(count):
            for folder, tail, shape, most in (
                ("leftImg8bit", "leftImg8bit", (32, 64, 3), 256),
                ("gtFine", "gtFine_labelIds", (32, 64), 34),
            ):
                path = root / f"source/{folder}/{split}/{city}/{city}_{i:06}_000019_{tail}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, most, shape).astype(np.uint8)).save(path)
    command = ["prepare", "--dataset=cityscapes", f"--source={root / 'source'}", "--partial"]
    assert main([*command, f"--data_dir={root / 'data'}"]) == 0
    return root / "data"


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_cityscapes(tmp_path, cityscapes_dir, backbone):
    config = ROOT / f"configs/cityscapes_{backbone}.py"
    where = [
        f"--config={config}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={cityscapes_dir}",
    ]
    smaller = ["--config.model.backbone=resnet18"] if backbone == "resnet101" else []
    assert main(["train", *where, *TINY, *smaller]) == 0
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert "cityscapes" in json.dumps(stored) and list((tmp_path / "run").rglob("metrics*"))
