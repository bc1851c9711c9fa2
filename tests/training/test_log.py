"""The log's window: what it averages, when it reads, and what stops a run."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import lines

from dpanet_jax.training.errors import NotFinite
from dpanet_jax.training.log import READ_TOGETHER, RunLog, Window


class Bar:
    """Counts what a progress bar is told."""

    def __init__(self) -> None:
        self.count, self.text = 0, ""

    def update(self) -> None:
        self.count += 1

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.text = text


def figures(loss: float, grad_norm: float = 1.0, lr: float = 0.1) -> dict[str, Any]:
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(grad_norm), "lr": jnp.float32(lr)}


def test_a_window_is_the_mean_of_its_steps_and_the_last_rate(tmp_path: Path) -> None:
    bar = Bar()
    with RunLog(tmp_path) as log:
        window = Window(log, bar, batch_size=8)
        for step, loss in enumerate([1.0, 2.0, 6.0], start=1):
            window.add(step, figures(loss, lr=0.5 / step), waited=1e-9)
        assert bar.count == 0  # All of them may still be computed.
        window.flush(3)
        window.flush(3)
    (line,) = lines(tmp_path)
    assert (line["step"], line["train/loss"]) == (3, 3.0)
    np.testing.assert_allclose(line["train/lr"], 0.5 / 3, rtol=1e-6)
    assert line["train/images_per_second"] > 0
    assert 0 < line["train/input_wait"] < 1
    assert bar.count == 3 and bar.text.startswith("loss 3.000, lr 1.67e-01")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_figure_that_is_not_finite_is_an_error(tmp_path: Path, name: str, value: float) -> None:
    with RunLog(tmp_path) as log:
        window = Window(log, Bar(), batch_size=8)
        window.add(1, figures(1.0))
        window.add(2, {**figures(1.0), name: jnp.float32(value)})
        with pytest.raises(NotFinite, match=rf"{name} is {value} at step 2 \(lr 0.1\)"):
            window.flush(2)


def test_the_host_is_a_bounded_number_of_steps_ahead_and_reads_several_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    get = jax.device_get

    def device_get(tree: list[Any]) -> Any:
        reads.append(len(tree))
        return get(tree)

    monkeypatch.setattr(jax, "device_get", device_get)
    bar = Bar()
    with RunLog(tmp_path) as log:
        window = Window(log, bar, batch_size=8)
        for step in range(1, 20):
            window.add(step, figures(step))
            # The devices have work left, whenever the host has waited for them.
            assert READ_TOGETHER <= step - bar.count < 2 * READ_TOGETHER or not bar.count
        window.flush(19)
    assert reads == [4, 4, 4, 7] and bar.count == 19
    assert lines(tmp_path)[0]["train/loss"] == 10


def test_a_figure_that_is_not_finite_is_found_steps_later_and_named_where_it_began(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        window = Window(log, Bar(), batch_size=8)
        with pytest.raises(NotFinite, match="loss is nan at step 3"):
            for step in range(1, 2 * READ_TOGETHER + 1):
                window.add(step, figures(np.nan if step >= 3 else 1.0))
        assert step == 2 * READ_TOGETHER


def test_a_large_wait_for_input_is_told_once_and_not_of_the_first_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, float]] = []
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with RunLog(tmp_path) as log:
        window = Window(log, Bar(), batch_size=8, hint=lambda share: told.append((step, share)))
        for step, waited in enumerate([9.0, 2.0, 4.0, 5.0], start=1):
            window.restart_clock()
            now[0] += 10
            window.add(step, figures(1.0), waited)
            window.flush(step)
    assert [line["train/input_wait"] for line in lines(tmp_path)] == [0.9, 0.2, 0.4, 0.5]
    assert told == [(3, 0.4)]


def test_what_comes_again_is_dropped(tmp_path: Path) -> None:
    """A run that goes on from step 2 has logged step 3, and half of a line."""
    with RunLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.scalars(step, {"train/loss": step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "tr')
    with RunLog(tmp_path, step=2) as log:
        log.scalars(3, {"train/loss": 30})
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 2), (3, 30)]
