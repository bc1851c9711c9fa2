"""A run's folder: whose it is, and what only one process writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpanet_jax import checkpoint, hosts
from dpanet_jax.config import ConfigError, default_config, to_dict
from dpanet_jax.errors import UsageError
from dpanet_jax.training.lock import Lock
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.workdir import Workdir

PROVENANCE = {"version": "9.9.9", "commit": "abc"}


def written(path: Path, change: Callable[[dict], None] = lambda about: None) -> Workdir:
    """A workdir with a checkpoint of the default config, which is changed as if another had written it."""
    about: dict[str, Any] = {"config": to_dict(default_config()), "classes": {}, "provenance": PROVENANCE}
    change(about)
    state = TrainState(np.int32(3), {"w": np.ones(2)}, {}, {"m": np.zeros(2)})
    with checkpoint.Checkpoints(path) as checkpoints:
        checkpoints.save(state, about)
    return Workdir(path)


def changed(**values: Any) -> dict[str, Any]:
    config = default_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return to_dict(config)


def stored(folder: Workdir) -> dict[str, Any]:
    return json.loads((folder.path / "config.json").read_text())


def test_it_belongs_to_the_config_that_it_began_with(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    config = to_dict(default_config())
    assert folder.config_of_run(config) == (config, [])
    with pytest.raises(
        ConfigError,
        match=r"run holds a run with another config \(optimizer.lr: 0.003, now 0.5\): use another --workdir",
    ):
        folder.config_of_run(changed(optimizer__lr=0.5))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer__lr", 0.5),
        ("training__accumulate_steps", 2),
        ("training__steps", 7),
        ("training__batch_size", 2),
        ("data__crop_size", (32, 32)),
        ("data__train_split", "val"),
        ("model__dtype", "bfloat16"),
        ("loss__fused", 0.5),
        ("seed", 1),
    ],
)
def test_what_changes_what_is_learned_may_not_change(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key.replace("__", ".") + ": .*, now "):
        written(tmp_path).config_of_run(changed(**{key: value}))


def test_what_is_evaluated_and_how_it_is_carried_out_may_change(tmp_path: Path) -> None:
    free = {
        "evaluation__batch_size": 1,
        "evaluation__every_epochs": 7,
        "evaluation__base_size": 64,
        "evaluation__absent": "zero",
        "data__val_split": "test",
        "data__data_dir": "/elsewhere",
        "data__num_threads": 3,
        "data__num_workers": 2,
        "checkpoint__keep_latest": 3,
        "checkpoint__keep_best": 2,
        "checkpoint__every_steps": 5,
        "model__remat": True,
        "parallelism": "pmap",
        "distributed": True,
        "log_every_steps": 1,
        "pictures": 0,
    }
    values, words = written(tmp_path).config_of_run(changed(**free))
    assert values == changed(**free)
    assert [line.partition(":")[0] for line in words] == sorted(key.replace("__", ".") for key in free)
    assert "evaluation.batch_size: 8, now 1" in words


def test_one_of_a_version_that_wrote_less_goes_on(tmp_path: Path) -> None:
    """Before 0.2.0 there was neither a provenance nor the key `imports`."""

    def older(about: dict) -> None:
        del about["provenance"], about["config"]["imports"]

    assert written(tmp_path, older).config_of_run(to_dict(default_config()))[1] == []


def test_one_of_a_version_that_knew_more_says_which(tmp_path: Path) -> None:
    def newer(about: dict) -> None:
        about["config"]["model"]["attention_heads"] = 4

    with pytest.raises(
        ConfigError, match=r"model.attention_heads.* written by dpanet_jax 9.9.9 \(commit abc\)"
    ):
        written(tmp_path, newer).config_of_run(to_dict(default_config()))


def test_without_a_checkpoint_any_config_will_do_and_what_was_left_goes(tmp_path: Path) -> None:
    folder = Workdir(tmp_path)
    folder.begin(to_dict(default_config()), PROVENANCE)
    for name in ("pictures/step_0000003.png", "tensorboard/events", "metrics.jsonl", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of the first")
    assert not folder.has_checkpoint
    assert folder.config_of_run(changed(optimizer__lr=0.5)) == (changed(optimizer__lr=0.5), [])
    folder.begin(changed(optimizer__lr=0.5), {"version": "later"})
    assert stored(folder)["optimizer"]["lr"] == 0.5 and stored(folder)["provenance"] == {"version": "later"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes.txt"]


def test_a_folder_that_is_no_runs_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday.png").write_text("")
    Workdir(tmp_path).begin(to_dict(default_config()), PROVENANCE)
    assert (tmp_path / "pictures" / "holiday.png").exists()


@pytest.mark.parametrize("text", [None, "{", "[1, 2]", "3"])
def test_a_config_that_is_lost_or_damaged_is_written_anew(tmp_path: Path, text: str | None) -> None:
    """The checkpoints hold the config that a run goes on by."""
    folder = written(tmp_path)
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    config = to_dict(default_config())
    assert folder.config_of_run(config) == (config, [])
    folder.go_on(config, PROVENANCE)
    assert stored(folder) == {**config, "provenance": PROVENANCE}


def test_config_json_says_what_the_run_goes_on_with_and_who_began_it(tmp_path: Path) -> None:
    folder = Workdir(tmp_path)
    folder.begin(to_dict(default_config()), PROVENANCE)
    now = changed(evaluation__batch_size=1)
    folder.go_on(now, {"version": "another"})
    assert stored(folder) == {**now, "provenance": PROVENANCE}


def test_what_a_run_was_started_from_stays_what_it_was(tmp_path: Path) -> None:
    """The weights came from that file, whatever a command that goes on says."""

    def started(about: dict) -> None:
        about["config"]["model"]["pretrained"] = "first.pth"

    folder = written(tmp_path, started)
    for given in ("", "second.pth"):
        values, words = folder.config_of_run(changed(model__pretrained=given, pictures=1))
        assert values == changed(model__pretrained="first.pth", pictures=1)
        assert words == ["pictures: 4, now 1"]


def test_a_path_is_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Workdir("~/run").path == tmp_path / "run"
    with pytest.raises(UsageError, match="az://bucket/run: only local paths"):
        Workdir("az://bucket/run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file: --workdir must be a folder"):
        Workdir(tmp_path / "file")


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "index", lambda: 1)
    folder = Workdir(tmp_path)
    with Lock(tmp_path), folder:  # The lock is process 0's.
        folder.begin(to_dict(default_config()), PROVENANCE)
        folder.go_on(to_dict(default_config()), PROVENANCE)
    with folder.open_log(0) as log:
        log.scalars(1, {"train/loss": 1.0})
        log.picture(1, "predictions", np.zeros((4, 4, 3), np.uint8), file="step_1")
    assert list(tmp_path.iterdir()) == []
