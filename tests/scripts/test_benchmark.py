"""scripts/benchmark in a small form: work is done in turns, and ratios are of medians."""

import json
import math
import os
import runpy
import subprocess
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmarks import attention, environment, files, limits, memory, torch_settings  # noqa: E402
from benchmarks.networks import NUM_CLASSES, Theirs, Work  # noqa: E402
from benchmarks.report import Row, table  # noqa: E402
from benchmarks.timing import Times, take_turns, turn  # noqa: E402
from benchmarks.ways import Way, measure  # noqa: E402


def test_ways_take_turns_and_short_ones_are_repeated() -> None:
    order: list[str] = []
    turns = {name: turn(partial(order.append, name), least_seconds=1e-4) for name in "ab"}
    times = take_turns(turns, 3)
    assert {name: len(each.seconds) for name, each in times.items()} == {"a": 3, "b": 3}
    # Twice to warm up, and then each way's repeats stand together.
    runs = [name for i, name in enumerate(order[4:]) if i == 0 or name != order[4:][i - 1]]
    assert "".join(order[:4]) == "aabb" and "".join(runs) == "ababab"
    assert len(order) > 4 + 2 * 6


def test_the_first_run_of_a_turn_does_not_count() -> None:
    """A case that is slow after a pause, as after another's turn."""
    clock = {"after a pause": True}

    def case() -> None:
        if clock.pop("after a pause", False):
            time.sleep(0.2)

    timed = turn(case, least_seconds=0.01)
    clock["after a pause"] = True
    assert timed() < 0.01


def test_a_row_compares_with_the_fastest_of_the_others() -> None:
    times = {
        "ours": Times((1.0, 2.0, 9.0)),
        "eager": Times((8.0, 8.0, 1.0)),
        "compiled": Times((4.0, 4.0, 4.0)),
    }
    row = Row("training", "a network", times, 6.0, "images", flops=10.0, limit=20.0, product=10.0)
    assert row.ratio == 0.5 and row.of_limit == 0.25 and row.of_product == 0.5
    found = row.to_dict()
    assert (found["rate"], found["ratio"], found["of_limit"], found["of_product"]) == (3.0, 0.5, 0.25, 0.5)
    assert (
        "| 2000 ms (1000 ms), 3.0 images/s | compiled: 4000 ms (4000 ms), 1.5 images/s | 0.50 | 25% | 50% |"
        in table([row])
    )
    alone = Row("start", "a network", {"ours": Times((1.0,))})
    assert alone.ratio is None and alone.of_limit is None and alone.of_product is None


def test_operations_are_counted_as_written() -> None:
    sizes = limits.SIZES["cpu"]
    ((name, (flops, _)), *_) = limits._jax_convolutions("float32", sizes)
    images, height, width, inputs, outputs = sizes.convolutions[0]
    assert name.startswith("jax") and flops == images * height * width * outputs * (2 * 9 * inputs)


def test_a_gpu_has_more_to_do_and_each_side_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    tiny = limits.Sizes((8,), ((1, 4, 4, 2, 3),), 2**10)
    for kind, names in (("cpu", ("cpu",)), ("gpu", ("gpu", "cuda"))):
        with monkeypatch.context() as patched:
            patched.setitem(limits.SIZES, kind, tiny)
            assert [limits.sizes_of(name) for name in names] == [tiny] * len(names)
            assert limits.sizes_of("cuda" if kind == "cpu" else "cpu") is not tiny
    flops = [2 * 8**3, 2 * 9 * 2 * 3 * 4 * 4]
    jax_cases = [*limits._jax_products("float32", tiny), *limits._jax_convolutions("float32", tiny)]
    torch_cases = [
        *limits._torch_products("float32", tiny, "cpu"),
        *limits._torch_convolutions("float32", tiny, "cpu"),
    ]
    for cases in (jax_cases, torch_cases):
        assert [count for _, (count, _) in cases] == flops
        for _, (_, case) in cases:
            case()
    monkeypatch.setitem(limits.SIZES, "cpu", tiny)
    rates = limits._of_jax("float32", 1)
    assert rates.keys() == {"product", "convolution", "copy"} and min(rates.values()) > 0


def test_pytorch_is_set_up_as_jax_is() -> None:
    pytest.importorskip("torch")
    code = """
import jax, torch
from benchmarks import torch_settings
from dpanet_jax import cores
for device, precision in (("cpu", None), ("cuda", None), ("cuda", "highest"), ("cuda", "tensorfloat32")):
    jax.config.update("jax_default_matmul_precision", precision)
    torch_settings.set_up(device)
    backends = torch.backends
    assert torch.get_num_threads() == cores.usable()
    print(backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = ["True True False", "True True True", "False False True", "True True True"]
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize(
    "theirs",
    [
        lambda: attention.theirs("SPA", 8, False, "here"),
        lambda: limits._of_torch("float32", 1, "here"),
        lambda: Theirs(Work("fcn", "resnet18", "float32", 1, 32), "here"),
        lambda: files.TwinLoop(None, Path(), "here", False),  # type: ignore[arg-type]
    ],
)
def test_each_way_of_pytorch_is_set_up(theirs: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")

    def set_up(device: str) -> None:
        raise RuntimeError(f"set up {device}")

    monkeypatch.setattr(torch_settings, "set_up", set_up)
    with pytest.raises(RuntimeError, match="set up here"):
        theirs()


@pytest.mark.parametrize(
    ("platform", "flags", "precision"),
    [("gpu", [], None), ("gpu", ["--no-tf32"], "highest"), ("cpu", ["--no-tf32"], None)],
)
def test_true_float32_is_asked_of_every_process(
    platform: str, flags: list[str], precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")  # The script sets it: so it is put back.
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "")
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(platform=platform)])
    script = runpy.run_path(str(SCRIPTS / "benchmark"))
    before = jax.config.jax_default_matmul_precision
    try:
        script["parse"](flags)
        assert jax.config.jax_default_matmul_precision == precision
        assert environment()["JAX_DEFAULT_MATMUL_PRECISION"] == (precision or "")
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def test_the_script(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from dpanet_jax.interop import twin

    output = tmp_path / "benchmark.json"
    flags = ["--networks=fcn", "--backbones=resnet18", "--dtypes=float32", "--modes=eager", "--rounds=2"]
    flags += ["--parts=inference", "--batch_size=2", "--size=32", "--least_seconds=0.01"]
    done = subprocess.run(
        [sys.executable, SCRIPTS / "benchmark", *flags, f"--output={output}"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(output.read_text())
    (row,) = found["rows"]
    ours, theirs = row["times"].values()
    assert row["part"] == "inference" and len(ours["seconds"]) == 2 and min(ours["seconds"]) > 0
    assert math.isclose(row["ratio"], ours["median"] / theirs["median"])
    network = twin.build(NUM_CLASSES, backbone="resnet18", name="fcn").eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, 3, 32, 32))
    assert row["flops"] == counter.get_total_flops()
    peak = found["limits"]["float32"]["product"] * len(found["machine"]["devices"])
    assert math.isclose(row["of_product"], row["flops"] / ours["median"] / peak)
    assert "| inference | fcn resnet18 float32 2×32² |" in done.stdout


def test_a_way_that_cannot_run_is_left_out_in_one_line() -> None:
    said: list[str] = []
    small = {"name": "SPA", "size": 8, "backward": False}
    ways = {
        "ours": Way("attention", "ours", small),
        "theirs": Way("attention", "theirs", {**small, "device": "no such device"}),
    }
    measured = measure(ways, 2, 0.01, said.append)
    assert measured and list(measured.times) == ["ours"] and len(measured.times["ours"].seconds) == 2
    assert len(said) == 1 and said[0].startswith("theirs cannot run: ") and "\n" not in said[0]
    assert measure({"theirs": ways["theirs"]}, 1, 0.01, said.append) is None


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("name", "keys", "channels"), [("SPA", 325, 512), ("non-local", 64, 256)])
def test_the_core_is_the_two_products(name: str, keys: int, channels: int, backward: bool) -> None:
    core = attention.core(name, 8, backward)
    core.case()
    assert core.flops == 2 * 2 * 64 * keys * channels * (3 if backward else 1)


def test_gradients_that_do_not_fit_are_said_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(SCRIPTS / "benchmark"))
    benchmark = types.SimpleNamespace(
        arguments=types.SimpleNamespace(map_sizes=[8]),
        torch_device=None,
        measured=lambda ways: None,
    )
    assert not list(script["Benchmark"].attention(benchmark)) and not capsys.readouterr().err
    monkeypatch.setattr(memory, "of_machine", lambda: attention.gradient_bytes(8) - 1)
    assert not list(script["Benchmark"].attention(benchmark))
    assert capsys.readouterr().err.count("map of 8² needs more than the memory") == 1


def test_an_unknown_part_is_said() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "benchmark", "--parts=trainig"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "'trainig' is none of dilation, training" in done.stderr
