"""A run's folder: whose it is, and what only one process writes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from dpanet_jax import checkpoint
from dpanet_jax.config import ConfigError, default_config, to_dict
from dpanet_jax.errors import UsageError
from dpanet_jax.training import workdir
from dpanet_jax.training.workdir import Workdir

PROVENANCE = {"version": "9.9.9", "commit": "abc"}


def written(path: Path, change: Callable[[dict], None] = lambda stored: None) -> Workdir:
    """A workdir of the default config, whose config.json is changed by hand."""
    folder = Workdir(path)
    folder.write_config(to_dict(default_config()), PROVENANCE)
    stored = json.loads((path / "config.json").read_text())
    change(stored)
    (path / "config.json").write_text(json.dumps(stored))
    return folder


def changed() -> ConfigDict:
    config = default_config()
    config.optimizer.lr = 0.5
    return config


def test_it_belongs_to_the_config_that_it_began_with(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    folder.require_run_of(to_dict(default_config()))
    with pytest.raises(
        ConfigError, match=r"run holds a run with another config \(optimizer.lr: 0.003, now 0.5\)"
    ):
        folder.require_run_of(to_dict(changed()))
    folder.write_config(to_dict(changed()), {})
    stored = json.loads((folder.path / "config.json").read_text())
    assert stored.pop("provenance") == PROVENANCE
    assert stored == to_dict(default_config())


def test_one_of_a_version_that_wrote_less_goes_on(tmp_path: Path) -> None:
    """Before 0.2.0 there was neither a provenance nor the key `imports`."""

    def older(stored: dict) -> None:
        del stored["provenance"], stored["imports"]

    written(tmp_path, older).require_run_of(to_dict(default_config()))


def test_one_of_a_version_that_knew_more_says_which(tmp_path: Path) -> None:
    def newer(stored: dict) -> None:
        stored["model"]["attention_heads"] = 4

    with pytest.raises(
        ConfigError, match=r"model.attention_heads.* written by dpanet_jax 9.9.9 \(commit abc\)"
    ):
        written(tmp_path, newer).require_run_of(to_dict(default_config()))


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"seed": "one"}', '{"model": 3}'])
def test_a_config_that_is_none_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config.json|seed|model") as error:
        Workdir(tmp_path).require_run_of(to_dict(default_config()))
    assert "\n" not in str(error.value)


def test_checkpoints_without_a_config_are_nobodys(tmp_path: Path) -> None:
    folder = Workdir(tmp_path)
    folder.require_run_of(to_dict(default_config()))
    assert not folder.has_checkpoint
    (checkpoint.folder_of(tmp_path) / "3").mkdir(parents=True)
    assert folder.has_checkpoint
    with pytest.raises(ConfigError, match="has checkpoints but no config.json: use another --workdir"):
        folder.require_run_of(to_dict(default_config()))


def test_a_path_is_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Workdir("~/run").path == tmp_path / "run"
    with pytest.raises(UsageError, match="gs://bucket/run: only local paths"):
        Workdir("gs://bucket/run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file: --workdir must be a folder"):
        Workdir(tmp_path / "file")


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workdir, "is_main_process", lambda: False)
    folder = Workdir(tmp_path)
    folder.write_config(to_dict(default_config()), PROVENANCE)
    with folder.open_log(0) as log:
        log.scalars(1, {"train/loss": 1.0})
        log.picture(1, "predictions", np.zeros((4, 4, 3), np.uint8), file="step_1")
    assert list(tmp_path.iterdir()) == []
