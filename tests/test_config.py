"""The config's checks: each wrong key or value is one line that names it."""

import importlib.util
from pathlib import Path

import pytest

from dpanet_jax import config as config_lib
from dpanet_jax import models

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_project_is_sound(path):
    config = load(path)
    config_lib.check(config)
    models.build(5, **config_lib.model_options(config))


def test_there_are_configs():
    assert {"demo", "camvid_resnet18", "camvid_resnet50", "folder"} <= {path.stem for path in CONFIGS}


def test_round_trip_through_json_types():
    config = config_lib.default_config()
    config.data.crop_size = (96, 128)
    again = config_lib.from_dict(config_lib.to_dict(config))
    assert again.to_dict() == config.to_dict()
    assert isinstance(again.data.crop_size, tuple)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("parallelism", "threads", "config.parallelism='threads': choose one of jit, pmap"),
        ("training.batch_size", 0, "config.training.batch_size=0: must be at least 1"),
        ("optimizer.lr", -1.0, "config.optimizer.lr=-1.0: must be 0 or more"),
        ("optimizer.lr", float("nan"), "config.optimizer.lr=nan: must be finite"),
        ("optimizer.lr", float("inf"), "config.optimizer.lr=inf: must be finite"),
        ("optimizer.momentum", 1.0, "config.optimizer.momentum=1.0: must be below 1"),
        ("seed", -1, "config.seed=-1: must be 0 or more"),
        ("seed", 2**32, "config.seed=4294967296: must be below 4294967296"),
        ("data.color_jitter", 1.5, "config.data.color_jitter=1.5: must be at most 1"),
        ("data.crop_size", (64,), "config.data.crop_size"),
        ("data.crop_size", (True, 64), "config.data.crop_size"),
        ("data.scale_range", (2.0, 1.0), "config.data.scale_range"),
        ("data.scale_range", ("a", "b"), "config.data.scale_range=('a', 'b'): must be two numbers"),
        ("data.scale_range", (0.5, float("inf")), "config.data.scale_range"),
        ("model.pretrained_missing", (1,), "config.model.pretrained_missing=(1,): must be patterns of names"),
        ("training.accumulate_steps", 3, "accumulate_steps=3 does not divide"),
        ("model.pretrained", "no/such.safetensors", "no/such.safetensors: there is no such file"),
        (
            "loss.class_weights",
            (1.0, -1.0),
            "config.loss.class_weights=(1.0, -1.0): must be numbers, 0 or more",
        ),
        ("loss.class_weights", (float("inf"), 1.0), "must be numbers, 0 or more"),
        ("loss.class_weights", (0.0, 0), "config.loss.class_weights: every weight is 0"),
        ("evaluation.protocol", "guess", "config.evaluation.protocol='guess'"),
    ],
)
def test_bad_values(key, value, words):
    config = config_lib.default_config()
    parent, _, name = key.rpartition(".")
    (config[parent] if parent else config)[name] = value
    with pytest.raises(config_lib.ConfigError) as error:
        config_lib.check(config)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_unknown_missing_and_mistyped_keys():
    config = config_lib.default_config()
    config.optimizer.leaning_rate = 1.0
    with pytest.raises(config_lib.ConfigError, match="optimizer.leaning_rate is not a key"):
        config_lib.check(config)
    config = config_lib.default_config()
    del config.training["epochs"]
    with pytest.raises(config_lib.ConfigError, match="config.training.epochs is missing"):
        config_lib.check(config)
    config = config_lib.default_config()
    with config.ignore_type():
        config.training.batch_size = "8"
    with pytest.raises(config_lib.ConfigError, match="batch_size='8' is of type str"):
        config_lib.check(config)


def test_differences_leave_out_what_may_change():
    old = config_lib.to_dict(config_lib.default_config())
    new = config_lib.to_dict(config_lib.default_config())
    new["data"]["num_workers"] = 4
    assert config_lib.differences(old, new) == []
    new["optimizer"]["lr"] = 1.0
    assert config_lib.differences(old, new) == ["optimizer.lr: 0.003, now 1.0"]


def test_class_weights_are_one_for_each_class():
    config = config_lib.default_config()
    config.loss.class_weights = (1.0, 2.0)
    config_lib.check_class_weights(config, ("road", "car"))
    with pytest.raises(config_lib.ConfigError, match="has 2 values; streets has 3 classes: road, car, sky"):
        config_lib.check_class_weights(config, ("road", "car", "sky"))
