"""scripts/benchmark in a small form: work is done in turns, and ratios are of medians."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmarks import limits  # noqa: E402
from benchmarks.report import Row, table  # noqa: E402
from benchmarks.timing import Times, take_turns  # noqa: E402


def test_ways_take_turns_and_short_ones_are_repeated() -> None:
    order: list[str] = []
    times = take_turns({name: lambda name=name: order.append(name) for name in "ab"}, 3, least_seconds=1e-4)
    assert {name: len(each.seconds) for name, each in times.items()} == {"a": 3, "b": 3}
    # Twice to warm up, and then each way's repeats stand together.
    runs = [name for i, name in enumerate(order[4:]) if i == 0 or name != order[4:][i - 1]]
    assert "".join(order[:4]) == "aabb" and "".join(runs) == "ababab"
    assert len(order) > 4 + 6


def test_a_row_compares_with_the_fastest_of_the_others() -> None:
    times = {
        "ours": Times((1.0, 2.0, 9.0)),
        "eager": Times((8.0, 8.0, 1.0)),
        "compiled": Times((4.0, 4.0, 4.0)),
    }
    row = Row("training", "a network", times, 6.0, "images", flops=10.0, limit=20.0)
    assert row.ratio == 0.5 and row.of_limit == 0.25
    assert row.to_dict()["rate"] == 3.0
    assert (
        "| 2000 ms (1000 ms), 3.0 images/s | compiled: 4000 ms (4000 ms), 1.5 images/s | 0.50 | 25% |"
        in table([row])
    )
    alone = Row("start", "a network", {"ours": Times((1.0,))})
    assert alone.ratio is None and alone.of_limit is None


def test_operations_are_counted_as_written() -> None:
    ((name, (flops, _)), *_) = limits._jax_convolutions("float32")
    images, height, width, inputs, outputs = limits.CONVOLUTIONS[0]
    assert name.startswith("jax") and flops == images * height * width * outputs * (2 * 9 * inputs)


def test_the_script(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    output = tmp_path / "benchmark.json"
    flags = ["--networks=fcn", "--backbones=resnet18", "--dtypes=float32", "--modes=eager", "--rounds=2"]
    flags += ["--parts=inference,attention", "--batch_size=8", "--size=32", "--map_sizes=8"]
    done = subprocess.run(
        [sys.executable, SCRIPTS / "benchmark", *flags, f"--output={output}"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(output.read_text())
    assert [row["part"] for row in found["rows"]] == ["inference"] + 4 * ["attention"]
    for row in found["rows"]:
        ours, *others = row["times"].values()
        assert len(ours["seconds"]) == 2 and min(ours["seconds"]) > 0
        assert math.isclose(row["ratio"], ours["median"] / others[0]["median"])
    assert "| inference | fcn resnet18 float32 8×32² |" in done.stdout


def test_an_unknown_part_is_said() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "benchmark", "--parts=trainig"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "'trainig' is none of training, inference" in done.stderr
