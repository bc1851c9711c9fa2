"""What goes to the devices comes back, and a batch that cannot be split is refused."""

import jax
import numpy as np
import pytest

from dpanet_jax import hosts
from dpanet_jax.config import ConfigError
from dpanet_jax.training.layout import LAYOUTS, require_even_batches
from dpanet_jax.training.state import TrainState


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_state_comes_back_as_it_was(kind: str) -> None:
    layout = LAYOUTS[kind]()
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 5)).astype(np.float32)}
    state = TrainState(np.int32(7), params, {"mean": np.ones(2, np.float32)}, {"m": np.float32(2)})
    on_devices = layout.put_state(state)
    for leaf in jax.tree.leaves(on_devices):
        assert len(leaf.sharding.device_set) == jax.device_count()
    back = layout.take_state(on_devices)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(back), state)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_devices_hold_the_batch_in_its_order(kind: str) -> None:
    batch = {"image": np.arange(16 * 3).reshape(16, 3)}
    layout = LAYOUTS[kind]()
    laid = layout.put_batch(batch)
    np.testing.assert_array_equal(np.asarray(laid["image"]).reshape(16, 3), batch["image"])
    assert layout.block == (0, 1)


def test_a_batch_that_does_not_split_is_refused() -> None:
    require_even_batches(16, 2, 3)
    with pytest.raises(ConfigError, match=r"batch_size=12 is not a multiple of 8 devices × .*multiple of 8"):
        require_even_batches(12, 1, 2)
    with pytest.raises(ConfigError, match=r"accumulate_steps=2: use a multiple of 16"):
        require_even_batches(8, 2, 2)


def test_an_evaluation_batch_must_split_over_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "count", lambda: 4)
    with pytest.raises(ConfigError, match=r"config.evaluation.batch_size=6 is not a multiple of the 4 hosts"):
        require_even_batches(16, 1, 6)
