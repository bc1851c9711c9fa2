"""What the worker makes of a request: images of a device, and a plan of split images and state."""

import subprocess
import sys

import pytest

from dpanet_jax import config as config_lib
from dpanet_jax.analysis import report
from dpanet_jax.analysis.worker import Request, images_of_a_device, make_plan
from dpanet_jax.config import ConfigError
from dpanet_jax.errors import UsageError


def test_images_of_a_device_are_those_that_it_shares() -> None:
    assert images_of_a_device(16, 8, 1) == 2
    assert images_of_a_device(8, 32, 1, space=4) == 1
    assert images_of_a_device(16, 32, 2, space=8) == 4
    with pytest.raises(
        UsageError, match=r"batch_size=12 is not a multiple of 8 devices: use a multiple of 8$"
    ):
        images_of_a_device(12, 8, 1)
    with pytest.raises(
        UsageError, match=r"8 devices / config.sharding.space=2 × accumulate_steps=3.* of 12$"
    ):
        images_of_a_device(8, 8, 3, space=2)
    with pytest.raises(UsageError, match=r"config.sharding.space=3 does not divide the 8 devices"):
        images_of_a_device(8, 8, 1, space=3)


def request(**sharding: object) -> Request:
    config = config_lib.default_config()
    config.model.name, config.model.backbone, config.model.width = "fcn", "resnet18", 4
    config.model.output_stride, config.model.auxiliary = 16, False
    config.data.crop_size = (64, 32)
    config.training.batch_size = 4
    config.sharding.update(sharding)
    return Request(config_lib.to_dict(config), 5, "local", search=False, variants=False)


def test_a_plan_of_four_devices_an_image() -> None:
    """On this process's 8 devices, of whose memory the plan is not read."""
    plan = make_plan(request(space=4, state="optimizer"))
    assert plan["sharding"] == {"space": 4, "state": "optimizer"}
    assert plan["batch_size"] == 4 and plan["images_of_a_device"] == 2
    memory = plan["step"]["memory"]
    assert memory["optimizer"] < 0.6 * memory["parameters"]
    plan["largest"] = {"images": 3, "refused": 4, "is_exact": True, "tried": {}}
    text = report.text(plan)
    assert "batch 4: 2 images for each 4 devices, 64×32, float32" in text
    assert "a device keeps a part of the optimizer's state" in text
    assert "collective-permute  halos" in text and "all-gather          parameters" in text
    assert "largest batch that fits: 6, 3 for each 4 devices; the next larger one does not fit" in text


def test_a_plan_of_adamw_and_of_other_losses() -> None:
    """AdamW keeps two numbers a parameter; the steps are counted by it, by the schedule and by the run."""
    asked = request()
    asked.config["data"]["crop_size"], asked.config["training"]["batch_size"] = (32, 32), 8
    asked.config["optimizer"] |= {"name": "adamw", "schedule": "cosine", "layer_decay": 0.9}
    asked.config["loss"] |= {"label_smoothing": 0.1, "ohem_threshold": 0.7, "dice": 1.0, "lovasz": 1.0}
    memory = make_plan(asked)["step"]["memory"]
    assert memory["optimizer"] == 2 * memory["parameters"] + 3 * 4


def test_a_height_that_cannot_be_shared_is_said_before_anything_is_compiled() -> None:
    with pytest.raises(ConfigError, match="use a height that is a multiple of 128"):
        make_plan(request(space=8))


def test_it_ends_with_the_one_who_asked() -> None:
    program = "from dpanet_jax.analysis.worker import end_with; end_with(0); import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.close()
        assert process.wait(timeout=50) == 1
