"""What goes to the devices comes back, and a batch that cannot be split is refused."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dpanet_jax import hosts
from dpanet_jax.config import ConfigError
from dpanet_jax.training.layout import LAYOUTS, Jit, make, require_even_batches
from dpanet_jax.training.options import Sharding
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


def test_devices_that_share_images_count_as_one() -> None:
    require_even_batches(2, 1, 2, space=4)
    require_even_batches(1, 1, 2, space=8)
    words = r"batch_size=6 is not a multiple of 8 devices / config.sharding.space=2 × .*multiple of 4"
    with pytest.raises(ConfigError, match=words):
        require_even_batches(6, 1, 2, space=2)
    with pytest.raises(ConfigError, match=r"config.sharding.space=3 does not divide the 8 devices"):
        require_even_batches(8, 1, 2, space=3)


@pytest.mark.parametrize(
    ("devices_of_a_host", "space", "expected"),
    [(8, 1, (5, 8)), (8, 4, (5, 8)), (2, 4, (2, 4)), (1, 8, (0, 1)), (2, 2, (5, 8))],
)
def test_hosts_that_share_images_read_the_same_rows(
    devices_of_a_host: int, space: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sixth of eight hosts."""
    devices = [SimpleNamespace(process_index=host) for host in range(8) for _ in range(devices_of_a_host)]
    layout = Jit()
    layout.mesh = SimpleNamespace(devices=np.asarray(devices).reshape(-1, space))  # type: ignore[assignment]
    monkeypatch.setattr(jax, "process_index", lambda: 5)
    assert layout.block == expected


def test_images_that_would_lie_across_hosts_unevenly_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 24)
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    for space in (2, 8, 24):
        require_even_batches(24, 1, 2, space)
    with pytest.raises(ConfigError, match="space=12 neither divides the 8 devices of a host nor is a multip"):
        require_even_batches(24, 1, 2, space=12)


def test_each_device_has_its_rows_of_its_images() -> None:
    layout = make("jit", Sharding(space=4))
    assert isinstance(layout, Jit) and dict(layout.mesh.shape) == {"data": 2, "space": 4}
    images = np.arange(4 * 8 * 3).reshape(4, 8, 3)
    laid = layout.put_batch({"image": images, "extent": np.arange(8).reshape(4, 2)})
    for shard in laid["image"].addressable_shards:
        first, part = divmod(shard.device.id, 4)
        expected = images[2 * first : 2 * first + 2, 2 * part : 2 * part + 2]
        np.testing.assert_array_equal(shard.data, expected)
    assert {shard.data.shape for shard in laid["extent"].addressable_shards} == {(2, 2)}


def test_a_split_state_comes_back_whole() -> None:
    layout = make("jit", Sharding(state="parameters"))
    assert isinstance(layout, Jit)
    rng = np.random.default_rng(0)
    # By the longest axis that eight devices divide; none of "odd", and a vector stays whole.
    params = {"w": rng.normal(size=(16, 100, 24)), "odd": rng.normal(size=(7, 9)), "b": rng.normal(size=8)}
    state = TrainState(np.int32(7), params, {"mean": np.ones((8, 8))}, {"m": params, "count": np.int32(2)})
    on_devices = layout.put_state(state)
    parts = jax.tree.map(lambda x: x.addressable_shards[0].data.shape, on_devices)
    expected = {"w": (16, 100, 3), "odd": (7, 9), "b": (8,)}
    assert parts.params == expected and parts.opt_state == {"m": expected, "count": ()}
    assert parts.batch_stats == {"mean": (8, 8)}
    jax.tree.map(np.testing.assert_array_equal, layout.take_state(on_devices), on_devices)
    back = jax.tree.map(np.asarray, layout.take_state(on_devices))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b, a.dtype)), back, state)
