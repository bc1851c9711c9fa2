"""What a run waits for besides its steps: its start, and its checkpoints."""

import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from benchmarks import environment, files, run_alone
from benchmarks.networks import Ours, Theirs, Work
from benchmarks.report import Row
from benchmarks.timing import Case, Times, take_turns, turn
from dpanet_jax.checkpoint import Checkpoints
from dpanet_jax.config import default_config, to_dict
from dpanet_jax.training.state import TrainState


def starts(work: Work, rounds: int, torch_device: str | None) -> Iterator[Row]:
    """Seconds to the marks of `start`, without and with compiled programs, and to `train`'s first step."""
    with tempfile.TemporaryDirectory() as cache:
        variables = _caches_in(cache)
        for name in ("cold", "from the compilation cache"):
            marks = {"ours": _start(work, variables)}
            if torch_device and work.has_twin:
                for mode in ("eager", "compiled"):
                    marks[f"PyTorch {mode}"] = _start(work, variables, torch_device, mode)
            for mark in marks["ours"]:
                times = {way: Times((found[mark],)) for way, found in marks.items() if mark in found}
                yield Row("start", f"{work.name}, {name}: {mark}", times)
    yield from _of_train(work, rounds)


def _caches_in(folder: str) -> dict[str, str]:
    """Variables by which both sides keep their compiled programs there."""
    return {
        "DPANET_COMPILATION_CACHE": folder,
        "JAX_COMPILATION_CACHE_DIR": "",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
    }


def _start(work: Work, variables: dict[str, str], *of_twin: str) -> dict[str, float]:
    done = run_alone("start", json.dumps(dataclasses.asdict(work)), *of_twin, **variables)
    done.check_returncode()
    marks: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return marks


def _of_train(work: Work, rounds: int) -> Iterator[Row]:
    """Seconds from the end of the imports of `train` to the figures of its first step."""
    with tempfile.TemporaryDirectory() as name:
        folder, seconds = Path(name), dict[str, list[float]]()
        files.draw(folder, files.SIZE, 2)
        variables = _caches_in(f"{name}/compiled")
        for i in range(rounds + 1):
            kind = "a new run, from the cache" if i else "a new run, cold"
            workdir = folder / f"run{i}"
            seconds.setdefault(kind, []).append(_first_step(work, folder, workdir, variables))
            if i:
                again = _first_step(work, folder, workdir, variables)
                seconds.setdefault("the same run, from the cache", []).append(again)
        for kind, values in seconds.items():
            yield Row("start", f"{work.name}, train, {kind}", {"ours": Times(tuple(values))})


def _first_step(work: Work, folder: Path, workdir: Path, variables: dict[str, str]) -> float:
    """Starts the run, or goes on with it, until it has logged a step more; then it is stopped, and saves."""
    log = workdir / "metrics.jsonl"
    before = _lines(log)
    arguments = (json.dumps(dataclasses.asdict(work)), str(folder), str(workdir))
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.train_start", *arguments],
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        assert process.stdout
        imported = process.stdout.readline()
        while _lines(log) <= before and process.poll() is None:
            time.sleep(0.01)
        stepped = time.time()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        if process.wait():
            said.seek(0)
            raise RuntimeError(f"train cannot run: {said.read().strip().rpartition(chr(10))[2]}")
    return stepped - float(imported)


def _lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


def checkpoints(work: Work, rounds: int, torch_device: str | None) -> Iterator[Row]:
    """A training state saved whole, and restored to the host; PyTorch's is a network and its optimizer."""
    ours = Ours(work)
    state = TrainState.create(ours.variables, ours.computed.optimizer).to_host()
    bytes_ = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    about = {"config": to_dict(default_config()), "classes": {}, "provenance": {}, "data": {}}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as written:
        steps = iter(range(1, 10**9))

        def save() -> None:
            written.save(state.replace(step=state.step + next(steps)), about)  # type: ignore[attr-defined]
            written.wait()

        def restore() -> None:
            written.restore(state)

        cases: dict[str, dict[str, Case]] = {"save": {"ours": save}, "restore": {"ours": restore}}
        if torch_device and work.has_twin:
            for part, case in _of_twin(work, torch_device, Path(folder) / "twin.pth").items():
                cases[part]["PyTorch"] = case
        for part, ways in cases.items():
            times = take_turns({way: turn(case) for way, case in ways.items()}, rounds)
            name = f"{work.network} {work.backbone} {work.dtype}, {bytes_ / 1e6:.0f} MB"
            yield Row(f"checkpoint {part}", name, times, bytes_ / 1e6, "MB")


def _of_twin(work: Work, device: str, file: Path) -> dict[str, Case]:
    """`torch.save` and `torch.load` of a network and an optimizer after a step."""
    import torch

    theirs = Theirs(work, device)
    optimizer = theirs.optimizer()
    for parameter in theirs.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # From here on it holds its momentum.

    def save() -> None:
        content = {"network": theirs.network.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(content, file)

    def restore() -> None:
        torch.load(file, map_location="cpu")

    return {"save": save, "restore": restore}
