"""The configs of published data sets train for two steps, on small sources of the published layout.

What is changed, and why: the backbone is a ResNet-18, it and the head are narrow, and the crops are tiny,
because compiling the true network takes minutes; `tests/models` builds it. Two steps in place of the epochs
and no pictures save time only. Everything else of a config is the run's, which is checked.
"""

import importlib.util
import json
import math
from pathlib import Path

import pytest
from published_sources import CHANGED, write_ade20k, write_cityscapes, write_coco_stuff, write_voc

from dpanet_jax.__main__ import main
from dpanet_jax.config import check_config, flatten

ROOT = Path(__file__).resolve().parents[1]
# A config's name: what writes a source of its data set, with a batch of train.
CONFIGS = {
    "cityscapes_resnet50": lambda root: write_cityscapes(root, counts=(8, 2, 0)),
    "cityscapes_resnet101": lambda root: write_cityscapes(root, counts=(8, 2, 0)),
    "voc_resnest101": lambda root: write_voc(root, counts=(8, 2), more=8),
    "ade20k_resnet50": lambda root: write_ade20k(root, counts=(16, 2, 0)),
    "coco_stuff_resnet101": lambda root: write_coco_stuff(root, counts=(16, 2)),
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def read(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"configs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config()


@pytest.mark.parametrize("name", CONFIGS)
def test_trains(tmp_path, data_dir, name):
    module, config = read(name)
    check_config(config)  # As it stands.
    CONFIGS[name](tmp_path / "source")
    prepare = [f"--dataset={config.data.dataset}", f"--source={tmp_path / 'source'}", "--partial"]
    assert main(["prepare", *prepare, f"--data_dir={data_dir}"]) == 0
    changed = CHANGED | {"data.data_dir": str(data_dir)}
    if config.evaluation.base_size:
        changed["evaluation.base_size"] = 64
    where = [f"--config={ROOT / f'configs/{name}.py'}", f"--workdir={tmp_path / 'run'}"]
    flags = [f"--config.{key}={value}" for key, value in changed.items()]
    assert main(["train", *where, *flags]) == 0

    stored = json.loads((tmp_path / "run/config.json").read_text())
    for key, value in json.loads(json.dumps(flatten(config))).items():
        section, _, last = key.rpartition(".")
        assert (stored[section] if section else stored)[last] == changed.get(key, value), key
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses)
    assert 0 <= next(line["val/mean_iou"] for line in lines if "val/mean_iou" in line) <= 1


def test_every_config_of_published_data_is_here():
    assert {path.stem for path in (ROOT / "configs").glob("*.py")} - CONFIGS.keys() == {
        "demo", "parity", "folder", "camvid_resnet18", "camvid_resnet50",
    }  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_opens_with_its_commands_hardware_and_published_number(name):
    text = read(name)[0].__doc__
    for words in (
        f"python -m dpanet_jax train --config=configs/{name}.py --workdir=",
        "python -m dpanet_jax prepare --dataset=",
        "\nHardware: ",
        "\nTo be held against: ",
    ):
        assert words in text
