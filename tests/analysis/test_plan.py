"""The verb `plan`: on simulated devices, on a TPU slice that is not there, and its errors."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from dpanet_jax.__main__ import main
from dpanet_jax.analysis import plan as plan_lib
from dpanet_jax.analysis import report
from dpanet_jax.analysis.machine import PlanError, in_words
from dpanet_jax.analysis.worker import Request, variants_of
from dpanet_jax.config import default_config, sections
from dpanet_jax.errors import UsageError

TINY = """
from dpanet_jax.config import default_config

def get_config():
    config = default_config()
    config.model.name = "fcn"
    config.model.backbone = "resnet18"
    config.model.width = 4
    config.model.output_stride = 16
    config.model.auxiliary = False
    config.data.crop_size = (32, 32)
    config.data.data_dir = "/nowhere"
    config.training.batch_size = 4
    return config
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """The flag that names a config of a tiny network."""
    file = tmp_path / "tiny.py"
    file.write_text(TINY)
    return f"--config={file}"


def test_a_plan_of_simulated_devices(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "plan.json"
    flags = ["--num_classes=5", "--novariants", "--nosearch", f"--output={output}"]
    assert main(["plan", tiny, "--topology=cpu:2", *flags]) == 0
    made = json.loads(output.read_text())
    assert made["machine"]["devices"] == 2 and made["images_of_a_device"] == 2
    step = made["step"]
    assert step["fits"] is True and step["seconds"]["step"] is None
    # ResNet-18's 11,176,512 at a sixteenth of its width, roughly; exactly in test_parameter_counts.
    assert 11_176_512 / 256 < step["parameter_count"] < 11_176_512 / 128
    out = capsys.readouterr().out
    assert "cpu:2: 2 × simulated CPU, 1 host" in out
    assert "fits: " in out and f"{step['parameter_count']:,}" in out
    assert "no peak rates are known" in out
    assert "all-reduce  gradients" in out


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_plan_of_a_tpu_slice(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "plan.json"
    flags = ["--num_classes=5", "--novariants", "--nosearch", f"--output={output}"]
    assert main(["plan", tiny, "--topology=v5e:2x2", "--batch_size=8", *flags]) == 0
    made = json.loads(output.read_text())
    assert made["machine"]["devices"] == 4 and made["machine"]["hosts"] == 1
    step = made["step"]
    assert step["fits"] is True and step["images_per_second"] > 0
    assert {each["purpose"] for each in step["collectives"]} >= {"batch norm", "gradients"}
    out = capsys.readouterr().out
    assert "https://" in out and "at best" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--topology=v9:2x2", "--num_classes=5"], "v5e:XxY"),
        (["--topology=cpu:0", "--num_classes=5"], "cpu:N"),
        (["--topology=cpu:2"], "its number of classes is not known: give --num_classes"),
        (["--topology=cpu:2", "--num_classes=5", "--config.loss.class_weights=(1.0,)"], "has 1 values"),
    ],
)
def test_errors_before_any_work(
    tiny: str, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", tiny, *flags]) in (1, 2)
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_batch_that_does_not_split(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--topology=cpu:3", "--num_classes=5", "--config.training.accumulate_steps=2"]
    assert main(["plan", tiny, *flags]) == 2
    error = capsys.readouterr().err
    assert "--batch_size=4 is not a multiple of 3 devices × accumulate_steps=2: use a multiple of 6" in error


def test_a_tpu_needs_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    with pytest.raises(UsageError, match=r"needs libtpu, .*environment of its own.*dpanet_jax\[plan\]"):
        plan_lib.environment("v5e:2x2", {})


def test_the_environment_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    outside = {"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=8 --b=2", "JAX_PLATFORMS": "cuda"}
    simulated = plan_lib.environment("cpu:4", outside)
    assert simulated["XLA_FLAGS"] == "--a=1 --b=2 --xla_force_host_platform_device_count=4"
    assert simulated["JAX_PLATFORMS"] == plan_lib.environment("v5e:2x2", outside)["JAX_PLATFORMS"] == "cpu"
    assert plan_lib.environment("local", outside)["JAX_PLATFORMS"] == "cuda"


def test_a_worker_that_dies_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\ncat > /dev/null\necho Killed by nobody >&2\nexit 9\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PlanError, match="status 9; its last words:\nKilled by nobody"):
        plan_lib.run_worker(Request({}, 5, "local"), {"PATH": "/usr/bin:/bin"}, print)


def test_libtpu_of_another_process_is_said_in_one_line() -> None:
    error = RuntimeError("ABORTED: Internal error when accessing libtpu multi-process lockfile.\nRun rm")
    assert "another process holds libtpu" in in_words(error, "v5e:2x2")
    assert in_words(RuntimeError("no\nsuch"), "v5e:2x2") == "libtpu has no topology v5e:2x2: no such"


def test_the_classes_are_those_of_the_prepared_data_set(streets_dir: Path) -> None:
    config: ConfigDict = default_config()
    config.data.data_dir = str(streets_dir)
    assert plan_lib.prepared_classes(config) == 19


def test_variants_have_the_other_value_of_one_option() -> None:
    options = sections(default_config())
    found = variants_of(options)
    assert found.keys() == {"bfloat16", "remat"}
    assert found["bfloat16"].model == {**options.model, "dtype": "bfloat16"}
    assert found["remat"].model == {**options.model, "remat": True}
    assert variants_of(found["remat"])["no remat"].model == options.model


def a_step(**changed: Any) -> dict[str, Any]:
    memory = dict.fromkeys(("optimizer", "statistics", "batch", "padding", "results", "code"), 0)
    seconds = {"arithmetic": 0.04, "memory": 0.12, "interconnect": 0.001, "latency": None}
    return {
        "fits": True,
        "total_bytes": 7e9,
        "memory": {**memory, "parameters": 1e9, "temporaries": 6e9},
        "parameter_count": 1000,
        "flops": 8e12,
        "products": 9e12,
        "traffic": 1e11,
        "collectives": [],
        "seconds": {**seconds, "step": 0.12, "limit": "memory"},
        "images_per_second": 64.0,
        "images_per_second_of_a_host": 32.0,
    } | changed


def test_the_report_in_words() -> None:
    from dpanet_jax.analysis import chips

    chip = chips.TPUS["v5e"]
    rates = {**vars(chip), "flops": dict(chip.flops)}
    plan = {
        "topology": "v5e:2x4",
        "machine": {"name": "TPU v5e", "chips": 8, "devices": 8, "hosts": 2, "memory": 16e9, "rates": rates},
        "network": {"model": {"dtype": "bfloat16"}, "crop_size": (768, 768)},
        "sharding": {"space": 1, "state": "whole"},
        "batch_size": 8,
        "images_of_a_device": 1,
        "step": a_step(),
        "variants": {"float32": {"fits": False, "refused": {"needed": 2e10, "limit": 16e9}}},
        "largest": {"images": 4, "refused": 6, "is_exact": False, "tried": {}},
    }
    text = report.text(plan)
    assert "fits: 7 GB of 16 GB a device" in text
    assert "memory traffic  120.00 ms  819 GB/s (https://docs.cloud.google.com/tpu/docs/v5e)" in text
    assert "at best 64 images/s, held back by memory traffic" in text
    # 32 images of 768 · 768 pixels, four bytes each.
    assert "each host must then read and augment 32 images/s, 75.5 MB/s of crops" in text
    assert "float32   does not fit" in text
    assert "largest batch that fits: 32, 4 a device; 48 does not fit" in text
    refused = {"fits": False, "refused": {"needed": 20e9, "limit": 16e9}}
    assert "does not fit: it needs 20 GB or more, and a device has 16 GB" in report.text(
        {**plan, "step": refused, "variants": {}}
    )


def test_the_hosts_of_a_slice_are_not_joined(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_lib, "environment", lambda *_: {})
    joined = ["--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=0"]
    monkeypatch.setenv("DPANET_TRACEBACK", "1")
    with pytest.raises(UsageError, match="--topology=v5e:2x2 is planned without its hosts: leave out"):
        main(["plan", tiny, "--topology=v5e:2x2", "--num_classes=19", *joined])


def test_a_host_that_never_comes_is_one_line(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    joined = ["--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=1", "--join_timeout=1"]
    assert main(["plan", tiny, "--topology=cpu:1", "--num_classes=19", *joined]) == 1
    words = capsys.readouterr().err
    assert words.startswith("dpanet_jax: not all of the 2 hosts came to 127.0.0.1:1 within 1 s: ")
    assert words.count("\n") == 1
