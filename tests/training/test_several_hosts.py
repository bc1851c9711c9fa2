"""Real processes, which exchange through the loopback interface, against one process's numbers.

A few rows of `scripts/hosts_check`, which has all of them.
"""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpanet_jax import paths

SCRIPTS = Path(__file__).parents[2] / "scripts"
TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def runs() -> Iterator[Any]:
    """The module `scripts/host_runs.py`."""
    sys.path.insert(0, str(SCRIPTS))
    import host_runs

    yield host_runs
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def site(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return runs.Site(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def reference(site: Any) -> Path:
    """The workdir of an undisturbed run of one process with one device."""
    run = site.start("train", "reference", 1, 1)
    assert run.wait() == [0], run.words(0)
    return run.workdir


@pytest.fixture(scope="module")
def four(site: Any, reference: Path) -> Path:
    """A workdir that two processes with two devices each have written."""
    run = site.start("train", "two_by_two", 2, 2)
    assert run.wait() == [0, 0], run.words(0) + run.words(1)
    return run.workdir


def test_two_processes_of_two_devices_train_the_same_network(runs: Any, four: Path, reference: Path) -> None:
    assert runs.difference(reference, four) <= TOLERANCE
    written = {path.name for path in four.iterdir()}
    assert written == {"checkpoints", "config.json", "metrics.jsonl", "pictures", "tensorboard"}
    assert {path.name for path in (four / "pictures").iterdir()} == {
        path.name for path in (reference / "pictures").iterdir()
    }
    # Both hosts have written arrays, and one of them the rest.
    parts = {path.name for path in (four / "checkpoints").glob("*/model/ocdbt.process_*")}
    assert parts == {"ocdbt.process_0", "ocdbt.process_1"}


def test_pmap_spans_the_devices_of_both_processes(runs: Any, site: Any, reference: Path) -> None:
    run = site.start("train", "pmap", 2, 1, "--config.parallelism=pmap")
    assert run.wait() == [0, 0], run.words(0) + run.words(1)
    assert runs.difference(reference, run.workdir) <= TOLERANCE
    assert "mean IoU" in run.words(0) and "mean IoU" not in run.words(1), "one process prints"


def test_evaluate_on_two_processes(runs: Any, site: Any, four: Path, reference: Path) -> None:
    """What four devices wrote, evaluated by two processes; and what one did, by itself."""
    both = site.start("evaluate", four.name, 2, 1, "--per_image")
    assert both.wait() == [0, 0], both.words(0) + both.words(1)
    one = site.start("evaluate", reference.name, 1, 1, "--per_image")
    assert one.wait() == [0], one.words(0)
    rows = [(run / "evaluation" / "val_whole_per_image.csv").read_text() for run in (four, reference)]
    assert rows[0] == rows[1] and rows[0].count("\n") > 2
    matrix = runs.confusion_matrix(four)
    assert matrix == runs.confusion_matrix(reference) and sum(map(sum, matrix)) > 0


def test_a_signal_to_one_stops_both_in_step_and_fewer_go_on(runs: Any, site: Any, reference: Path) -> None:
    run = site.start("train", "stopped", 2, 1)
    run.until_step(2)
    run.send(1, signal.SIGTERM)
    assert run.wait() == [1, 1], run.words(0) + run.words(1)
    assert run.last_line(0) == run.last_line(1)
    assert "stopped by SIGTERM on host 1 after step" in run.last_line(0)
    alone = site.start("train", "stopped", 1, 1)
    assert alone.wait() == [0], alone.words(0)
    assert runs.difference(reference, alone.workdir) <= TOLERANCE


def test_both_write_to_a_bucket(runs: Any, site: Any, reference: Path, bucket: str) -> None:
    workdir = paths.anywhere(f"{bucket}/run")
    run = site.start("train", "bucket", 2, 1, f"--workdir={workdir}")
    assert run.wait() == [0, 0], run.words(0) + run.words(1)
    assert runs.difference(reference, workdir) <= TOLERANCE


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_dies_ends_the_other(lost: int, site: Any) -> None:
    run = site.start("train", f"lost_{lost}", 2, 1)
    run.until_step(1)
    run.send(lost, signal.SIGKILL)
    statuses = run.wait(60)
    assert sorted(statuses) == [-signal.SIGKILL, 1], statuses
    assert "another host" in run.last_line(1 - lost)
    assert "start the same command on all hosts" in run.last_line(1 - lost)


def test_a_host_that_never_comes_and_one_that_differs(site: Any) -> None:
    """Two pairs at once: each waits for the most part."""
    alone = site.start("train", "alone", 2, 1, "--join_timeout=5", only=[0])
    differ = site.start("train", "differ", 2, 1, own={1: ["--config.optimizer.lr=0.5"]})
    assert alone.wait(60) == [1]
    assert "not all of the 2 hosts came to 127.0.0.1:" in alone.last_line(0)
    assert "within 5 s: start the same command on each" in alone.last_line(0)
    assert differ.wait(60) == [2, 2]
    for process in range(2):
        assert "config.optimizer.lr is 0.5 on host 1, and 0.02 on host 0" in differ.last_line(process)
    assert not differ.workdir.exists()
