"""The parts that a config describes."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from dpanet_jax.config import ConfigError
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.training import layout
from dpanet_jax.training.build import build, require_valid
from dpanet_jax.training.optimizer import lars

MakeConfig = Callable[[], ConfigDict]


def test_when_a_run_logs_saves_and_evaluates(make_config: MakeConfig) -> None:
    config = make_config()
    config.training.steps = 7
    config.training.batch_size = 16  # More than the 12 images: an epoch is one step.
    config.evaluation.every_epochs = 3
    config.checkpoint.every_steps = 2
    config.log_every_steps = 5
    parts = build(config)

    def due(when: Callable[[int], bool]) -> list[int]:
        return [step for step in range(1, 8) if when(step)]

    assert (parts.steps_per_epoch, parts.total_steps) == (1, 7)
    assert due(parts.is_evaluated) == [3, 6, 7]
    assert due(parts.is_saved) == [2, 3, 4, 6, 7]
    assert due(parts.is_logged) == [2, 3, 4, 5, 6, 7]


def test_steps_are_of_epochs_of_whole_batches(make_config: MakeConfig) -> None:
    config = make_config()
    config.training.steps, config.training.epochs = 0, 5
    assert build(config).total_steps == 5  # 12 images, batches of 8
    config.training.batch_size = 16
    with pytest.raises(ConfigError, match="batch_size=16 is more than the 12 training images"):
        build(config)


@pytest.mark.parametrize("kind", layout.LAYOUTS)
def test_the_options_reach_their_parts(make_config: MakeConfig, kind: str) -> None:
    config = make_config()
    config.parallelism = kind
    config.optimizer.lr_batch_size = 4
    config.optimizer.warmup_steps = 5
    config.optimizer.name = "lars"
    parts = build(config)
    assert isinstance(parts.layout, layout.LAYOUTS[kind])
    np.testing.assert_allclose(parts.schedule(0), 2 * 0.02 / 5, rtol=1e-6)
    of_lars = lars(parts.schedule, parts.options.optimizer).init(parts.initial_state.params)
    assert jax.tree.structure(parts.initial_state.opt_state) == jax.tree.structure(of_lars)
    batch = next(parts.batches)
    assert batch["image"].shape == (8, 32, 32, 3)
    assert set(parts.initial_state.params) == {"backbone", "head", "auxiliary_head"}
    assert parts.about["classes"]["names"] == list(parts.classes.names)
    assert parts.drawn == (0, 2)  # of 5


def test_the_seed_is_of_the_weights_and_of_the_data(make_config: MakeConfig) -> None:
    def first(seed: int) -> tuple[np.ndarray, np.ndarray]:
        config = make_config()
        config.seed = seed
        parts = build(config)
        kernel = parts.initial_state.params["backbone"]["conv1"]["kernel"]
        return kernel, next(parts.batches)["image"]

    for ours, again, other in zip(first(0), first(0), first(1), strict=True):
        np.testing.assert_array_equal(ours, again)
        assert (ours != other).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training.batch_size": 12}, "batch_size=12 is not a multiple of 8 devices"),
        ({"optimizer.lr": -1.0}, "config.optimizer.lr=-1.0"),
        ({"loss.fused": 0.0, "loss.auxiliary": 0.0}, "nothing would be learned"),
    ],
)
def test_what_is_wrong_is_found_before_any_work(
    make_config: MakeConfig, change: dict[str, float], words: str
) -> None:
    config = make_config()
    require_valid(config)
    config.data.data_dir = "/no such folder"
    config.update_from_flattened_dict(change)
    with pytest.raises(ConfigError, match=words):
        require_valid(config)


def test_class_weights_must_fit_the_classes(make_config: MakeConfig) -> None:
    config = make_config()
    config.loss.class_weights = (1.0, 2.0)
    with pytest.raises(ConfigError, match="2 values; streets has 19 classes"):
        build(config)


def test_pretrained_weights_are_where_training_starts(
    tiny_config: Callable[[], ConfigDict], tmp_path: Path
) -> None:
    """A file made from another seed's backbone; the heads keep their own first values."""

    config = tiny_config()
    ours = build(config).initial_state
    config.seed = 99
    theirs = build(config).initial_state
    state_dict = torch_weights.to_state_dict(theirs.variables)
    of_backbone = {
        name.removeprefix("pretrained."): np.ascontiguousarray(value)
        for name, value in state_dict.items()
        if name.startswith("pretrained.")
    }
    save_file(of_backbone, tmp_path / "weights.safetensors")
    config.seed = 0
    config.model.pretrained = str(tmp_path / "weights.safetensors")
    started = build(config).initial_state.params
    jax.tree.map(np.testing.assert_array_equal, started["backbone"], theirs.params["backbone"])
    jax.tree.map(np.testing.assert_array_equal, started["head"], ours.params["head"])

    # A run that goes on reads no file and draws nothing: it needs a state of the same shapes.
    (tmp_path / "weights.safetensors").unlink()
    goes_on = build(config, begins=False).initial_state
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(goes_on))
    jax.tree.map(
        lambda found, like: np.testing.assert_array_equal(found, 0 * like, strict=True), goes_on, ours
    )
