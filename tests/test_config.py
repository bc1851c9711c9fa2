"""The config's checks: each wrong key or value is one line that names it."""

import importlib.util
from pathlib import Path

import pytest

from dpanet_jax import config as config_lib
from dpanet_jax import config_reference, models

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_project_is_sound(path):
    config = load(path)
    config_lib.check_config(config)
    models.build(5, **config_lib.sections(config).model)


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
        ("sharding.space", 0, "config.sharding.space=0: must be at least 1"),
        ("sharding.state", "all", "config.sharding.state='all': choose one of whole, optimizer, parameters"),
        ("parallelism", "threads", "config.parallelism='threads': choose one of jit, pmap"),
        ("training.batch_size", 0, "config.training.batch_size=0: must be at least 1"),
        ("optimizer.lr", -1.0, "config.optimizer.lr=-1.0: must be at least 0"),
        ("optimizer.lr", float("nan"), "config.optimizer.lr=nan: must be finite"),
        ("optimizer.lr", float("inf"), "config.optimizer.lr=inf: must be finite"),
        ("optimizer.momentum", 1.0, "config.optimizer.momentum=1.0: must be at least 0 and below 1"),
        ("seed", -1, "config.seed=-1: must be at least 0"),
        ("seed", 2**32, "config.seed=4294967296: must be at least 0 and below 4294967296"),
        ("data.color_jitter", 1.5, "config.data.color_jitter=1.5: must be at least 0 and at most 1"),
        ("data.crop_size", (64,), "config.data.crop_size"),
        ("data.crop_size", (True, 64), "config.data.crop_size"),
        ("data.scale_range", (2.0, 1.0), "config.data.scale_range"),
        ("data.scale_range", ("a", "b"), "config.data.scale_range=('a', 'b'): must be finite numbers"),
        ("data.scale_range", (0.5, float("inf")), "config.data.scale_range"),
        ("model.pretrained_missing", (1,), "config.model.pretrained_missing=(1,): must be texts"),
        ("training.accumulate_steps", 3, "accumulate_steps=3 does not divide"),
        ("model.pretrained", "no/such.safetensors", "no/such.safetensors: there is no such file"),
        (
            "loss.class_weights",
            (1.0, -1.0),
            "config.loss.class_weights=(1.0, -1.0): every value must be at least 0",
        ),
        ("loss.class_weights", (float("inf"), 1.0), "must be finite numbers"),
        ("loss.class_weights", (0.0, 0), "config.loss.class_weights: every weight is 0"),
        ("evaluation.protocol", "guess", "config.evaluation.protocol='guess'"),
        ("model.width", 0, "config.model.width=0: must be at least 1"),
        (
            "model.multi_grid",
            (4, 8),
            "config.model.multi_grid=(4, 8): the last stage of resnet50 has 3 blocks",
        ),
        ("model.pretrained", "az://bucket/file.pth", "az://bucket/file.pth: only local paths"),
        ("imports", ("no_such_module",), "config.imports: the module no_such_module cannot be imported"),
    ],
)
def test_bad_values(key, value, words):
    config = config_lib.default_config()
    parent, _, name = key.rpartition(".")
    (config[parent] if parent else config)[name] = value
    with pytest.raises(config_lib.ConfigError) as error:
        config_lib.check_config(config)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_unknown_missing_and_mistyped_keys():
    config = config_lib.default_config()
    config.optimizer.leaning_rate = 1.0
    with pytest.raises(config_lib.ConfigError, match="optimizer.leaning_rate is not a key"):
        config_lib.check_config(config)
    config = config_lib.default_config()
    del config.training["epochs"]
    with pytest.raises(config_lib.ConfigError, match="config.training.epochs is missing"):
        config_lib.check_config(config)
    config = config_lib.default_config()
    with config.ignore_type():
        config.training.batch_size = "8"
    with pytest.raises(config_lib.ConfigError, match="batch_size='8' is of type str"):
        config_lib.check_config(config)


def test_differences_leave_out_what_may_change():
    old = config_lib.to_dict(config_lib.default_config())
    new = config_lib.to_dict(config_lib.default_config())
    new["data"]["num_workers"] = 4
    assert config_lib.differences(old, new) == []
    new["optimizer"]["lr"] = 1.0
    assert config_lib.differences(old, new) == ["optimizer.lr: 0.003, now 1.0"]


def test_class_weights_are_one_for_each_class():
    config_lib.check_class_weights((1.0, 2.0), ("road", "car"), "streets")
    config_lib.check_class_weights((), ("road", "car"), "streets")
    with pytest.raises(config_lib.ConfigError, match="has 2 values; streets has 3 classes: road, car, sky"):
        config_lib.check_class_weights((1.0, 2.0), ("road", "car", "sky"), "streets")


@pytest.mark.parametrize(
    ("values", "key", "default"),
    [
        ({"model.name": "fcn", "model.reduce_channels": 64}, "model.reduce_channels", 512),
        ({"model.spatial": "none", "model.qkv": "conv"}, "model.qkv", "identity"),
        ({"model.backbone": "resnest50", "model.stem": "deep"}, "model.stem", "plain"),
        ({"model.name": "fcn", "loss.spatial": 0.5}, "loss.spatial", 1.0),
        ({"model.auxiliary": False, "loss.auxiliary": 1.0}, "loss.auxiliary", 0.4),
    ],
    ids=str,
)
def test_what_has_no_effect_is_an_error_and_its_advice_works(values, key, default):
    config = config_lib.default_config()
    config.update_from_flattened_dict(values)
    with pytest.raises(config_lib.ConfigError) as error:
        config_lib.check_config(config)
    words = str(error.value)
    assert words.startswith(f"config.{key}=") and "default" in words and "\n" not in words
    config.update_from_flattened_dict({key: default})
    config_lib.check_config(config)


@pytest.mark.parametrize(("key", "value"), [("space", 2), ("state", "optimizer")])
def test_only_jit_splits_more_than_the_batch(key, value):
    config = config_lib.default_config()
    config.sharding[key] = value
    config_lib.check_config(config)
    config.parallelism = "pmap"
    with pytest.raises(config_lib.ConfigError) as error:
        config_lib.check_config(config)
    assert str(error.value).startswith(f"config.sharding.{key}={value!r} needs config.parallelism='jit'")


def test_a_loss_without_any_weight():
    config = config_lib.default_config()
    config.model.name = "fcn"
    config.loss.fused = config.loss.auxiliary = 0.0
    with pytest.raises(config_lib.ConfigError, match="weights of fused, auxiliary are all 0"):
        config_lib.check_config(config)


def test_sections_hold_what_the_chosen_network_uses():
    config = config_lib.default_config()
    config.model.name = "fcn"
    config.loss.fused = 2
    sections = config_lib.sections(config)
    assert sections.loss == {"fused": 2.0, "auxiliary": 0.4}
    assert "reduce_channels" not in sections.model and sections.model["backbone"] == "resnet50"
    assert sections.data.crop_size == (768, 768) and sections.optimizer.lr == 0.003


def test_a_stored_config_of_another_version_is_named():
    values = config_lib.to_dict(config_lib.default_config())
    values["model"]["dilations"] = 3
    with pytest.raises(config_lib.ConfigError, match="model.dilations.*written by dpanet_jax 9.9.9"):
        config_lib.from_dict(values, "dpanet_jax 9.9.9")


def test_what_0_1_0_stored_is_read_with_todays_defaults():
    """It had no `imports`, and let options stand that the network does not use."""
    values = config_lib.to_dict(config_lib.default_config())
    del values["imports"]
    values["model"].update(name="fcn", reduce_channels=64)
    config = config_lib.from_dict(values)
    assert config.imports == () and "reduce_channels" not in config_lib.sections(config).model
    new = config_lib.default_config()
    new.model.name = "fcn"
    assert config_lib.differences(values, config_lib.to_dict(new)) == []


def test_a_data_dir_is_stored_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = config_lib.default_config()
    assert config_lib.resolved(config).data.data_dir == ""
    for given, stored in (("data", tmp_path / "data"), ("~/data", tmp_path / "home" / "data")):
        config.data.data_dir = given
        assert config_lib.resolved(config).data.data_dir == str(stored)
        assert config.data.data_dir == given


def test_the_reference_page_has_every_key_with_its_default():
    page = config_reference.keys()
    for key, value in config_lib.flatten(config_lib.default_config()).items():
        assert f"| `{key}` | `{value!r}` |" in page
