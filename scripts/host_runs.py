"""Small runs of several real processes on this machine, and how far two of them are apart.

Each process has its own simulated CPU devices, and the processes exchange through the loopback interface.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpanet_jax import checkpoint, checkpoint_files, checksums
from dpanet_jax.data.prepare import prepare
from dpanet_jax.paths import AnyPath

ROOT = Path(__file__).resolve().parent.parent
STEPS = 10

# The real network and recipe, small; float64, so that what differs is not rounding. Dropout is on, labels
# have pixels that are not valid, and the last evaluation batch is not full.
FLAGS = (
    "--config=demo",
    "--config.data.crop_size=(64, 64)",
    "--config.data.base_size=128",
    "--config.model.backbone=resnet18",
    "--config.model.width=8",
    "--config.model.output_stride=16",
    "--config.model.reduce_channels=8",
    "--config.model.dtype=float64",
    "--config.optimizer.lr=0.02",
    "--config.training.batch_size=8",
    f"--config.training.steps={STEPS}",
    "--config.training.epochs=0",
    "--config.evaluation.batch_size=4",
    "--config.evaluation.every_epochs=5",
    "--config.log_every_steps=1",
    "--config.pictures=2",
)


@dataclasses.dataclass
class Run:
    """The processes of one run, and where what they print goes."""

    workdir: Path
    processes: list[subprocess.Popen[bytes]]
    outputs: list[Path]

    def wait(self, seconds: float = 300) -> list[int]:
        """The exit status of each process; those that do not end in time are killed, and raise."""
        until = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, until - time.monotonic())) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def words(self, process: int) -> str:
        """What a process has printed."""
        return self.outputs[process].read_text(errors="replace")

    def last_line(self, process: int) -> str:
        """The last line that a process has printed."""
        return self.words(process).rstrip().rpartition("\n")[2]

    def until_step(self, step: int, seconds: float = 120) -> None:
        """Waits until the run has logged so many steps. Raises RuntimeError where it ends before."""
        log, until = self.workdir / "metrics.jsonl", time.monotonic() + seconds
        while not log.exists() or len(log.read_text().splitlines()) < step:
            if time.monotonic() > until or self.processes[0].poll() is not None:
                raise RuntimeError(f"no step {step}: {self.last_line(0)}")
            time.sleep(0.02)

    def send(self, process: int, number: signal.Signals) -> None:
        """Sends a signal to one of the processes."""
        self.processes[process].send_signal(number)


class Site:
    """A folder with a small data set, and the runs that are made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        if not self.data.exists():
            # Five of the validation images do not fill two batches of four.
            prepare("streets", self.data, num_train=12, num_val=5, size=(64, 128), quiet=True)

    def start(
        self,
        verb: str,
        name: str,
        processes: int,
        devices: int,
        *flags: str,
        own: dict[int, Sequence[str]] | None = None,
        only: Sequence[int] | None = None,
    ) -> Run:
        """Starts a verb on so many processes of so many devices, in the workdir `name`.

        own: flags of single processes. only: the processes that are started; none: all.
        """
        workdir = self.folder / name
        command = [sys.executable, "-m", "dpanet_jax", verb]
        if verb != "plan":
            command.append(f"--workdir={workdir}")
        if verb in ("train", "plan"):
            command += [*FLAGS, f"--config.data.data_dir={self.data}"]
        elif verb == "evaluate":
            command += [f"--data_dir={self.data}", "--checkpoint=latest"]
        port = free_port()
        run = Run(workdir, [], [])
        for process in range(processes) if only is None else only:
            joined = [
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={processes}",
                f"--process_id={process}",
            ]
            output = self.folder / f"{name}.{verb}.{process}.txt"
            with open(output, "wb") as file:
                run.processes.append(
                    subprocess.Popen(
                        [*command, *(joined if processes > 1 else []), *flags, *(own or {}).get(process, ())],
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        cwd=ROOT,
                        env=self.environment(devices),
                    )
                )
            run.outputs.append(output)
        return run

    def environment(self, devices: int) -> dict[str, str]:
        """The environment of a process with so many simulated devices."""
        quick = "--xla_backend_optimization_level=0"  # These programs are compiled for longer than they run.
        return os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {quick}",
        }


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def difference(one: AnyPath, two: AnyPath) -> float:
    """The largest absolute difference of two finished runs, in what they logged and in their last checkpoint.

    Losses, learning rates, gradient norms and validation figures at every step; parameters, batch
    statistics and momentum. Raises RuntimeError where one has a line or an array that the other lacks.
    """
    return max(_difference(_logged(one), _logged(two)), _difference(_state(one), _state(two)))


def _difference(one: dict[str, Any], two: dict[str, Any]) -> float:
    if one.keys() != two.keys():
        raise RuntimeError(f"only in one of them: {sorted(one.keys() ^ two.keys())[:5]}")
    return max(float(np.max(np.abs(np.asarray(one[key]) - two[key]), initial=0)) for key in one)


def _logged(workdir: AnyPath) -> dict[str, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        f"{line['step']} {name}": np.nan if value is None else value
        for line in lines
        for name, value in line.items()
        if name not in ("step", "train/images_per_second", "train/input_wait")
    }


def _state(workdir: AnyPath) -> dict[str, np.ndarray]:
    folder = checkpoint.find(workdir, "latest")
    items = {name: checkpoint_files.read_raw(folder, name) for name in ("model", "optimizer")}
    return {f"{folder.name} {name}": leaf for name, leaf in checksums.named_leaves(items)}


def confusion_matrix(workdir: Path) -> list[list[int]]:
    """The counts that `evaluate` has written of the validation split."""
    report = json.loads((workdir / "evaluation" / "val_whole.json").read_text())
    counts: list[list[int]] = report["confusion_matrix"]
    return counts
