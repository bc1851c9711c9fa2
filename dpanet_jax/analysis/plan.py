"""A plan of a run on machines that need not be there: asked for here, made by a worker process, printed."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dpanet_jax import config as config_lib
from dpanet_jax import paths
from dpanet_jax.analysis import chips, report
from dpanet_jax.analysis.machine import PlanError
from dpanet_jax.analysis.worker import Request
from dpanet_jax.data.location import DatasetNotFound, dataset_dir, is_prepared, read_metadata
from dpanet_jax.errors import UsageError

_SIMULATED = re.compile(r"cpu:([1-9]\d{0,3})")
_DEVICE_COUNT = re.compile(r"\s*--xla_force_host_platform_device_count=\S*")


def plan(
    config: ConfigDict,
    topology: str,
    *,
    batch_size: int = 0,
    num_classes: int = 0,
    search: bool = True,
    variants: bool = True,
    max_compiles: int = 5,
    hosts: Mapping[str, Any] | None = None,
    output: paths.AnyPath | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Makes a plan, says it, and returns it as it is written to `output`, a file of JSON.

    topology: a TPU slice such as "v5e:16x16"; "local", the devices of this machine; or "cpu:N", so many
    simulated ones. batch_size: of all devices; 0: the config's own. num_classes 0: those of the prepared data
    set. search: look for the largest batch too, by at most max_compiles compilations more. variants: compile
    the step with remat and with the other type too. hosts: arguments of `hosts.join`, with which several
    processes plan for the devices of them all; process 0 says and writes the plan. Raises UsageError
    (ConfigError, DatasetNotFound among them) for what is wrong before any work, and PlanError where the
    compiler fails.
    """
    config_lib.check_config(config)
    env = environment(topology, os.environ)
    classes = num_classes or prepared_classes(config)
    weights = tuple(config.loss.class_weights)
    config_lib.check_class_weights(weights, [str(i) for i in range(classes)], config.data.dataset)
    if output:
        paths.require_writable(output.parent)
    if hosts and topology != "local" and not _SIMULATED.fullmatch(topology):
        raise UsageError(
            f"--topology={topology} is planned without its hosts: leave out --coordinator, --num_processes"
            " and --process_id, which join the hosts of --topology=local or cpu:N"
        )
    request = Request(
        config=config_lib.to_dict(config),
        num_classes=classes,
        topology=topology,
        batch_size=batch_size,
        search=search,
        variants=variants,
        max_compiles=max_compiles,
        hosts=dict(hosts or {}),
    )
    speaks = not hosts or hosts["process_id"] == 0
    made = run_worker(request, env, lambda what: say(f"compiling {what} …") if speaks else None)
    if not speaks:
        return made
    if output:
        paths.write_text(output, json.dumps(made, indent=1) + "\n")
    say(report.text(made))
    return made


def environment(topology: str, outside: Mapping[str, str]) -> dict[str, str]:
    """The variables that the worker starts with. UsageError for an unknown topology, or without libtpu."""
    # A program from the cache would do, but not every compiler's can be read back.
    env = {**outside, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if topology == "local":
        return env
    env["JAX_PLATFORMS"] = "cpu"  # Nothing is computed; a TPU or GPU that is here stays free.
    if simulated := _SIMULATED.fullmatch(topology):
        flags = _DEVICE_COUNT.sub("", env.get("XLA_FLAGS", ""))
        env["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={simulated[1]}".strip()
        return env
    chips.parse(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError(
            f"--topology={topology} needs libtpu, which this Python does not have: make an environment of its"
            " own for plans (JAX takes a machine with libtpu for a TPU), and there pip install"
            " 'dpanet_jax[plan]', or from a checkout pip install '.[plan]'"
        )
    # No TPU is opened, so that another process with libtpu does not matter; nor is a cloud asked about one.
    return {**env, "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}


def prepared_classes(config: ConfigDict) -> int:
    """The number of classes of the config's data set. UsageError where it has not been prepared."""
    name, data_dir = config.data.dataset, config.data.data_dir or None
    folder = dataset_dir(name, data_dir)
    if not is_prepared(folder):
        raise DatasetNotFound(
            f"{name} is not prepared in {folder}, so that its number of classes is not known: give"
            " --num_classes"
        )
    return len(read_metadata(folder)["classes"]["names"])


def run_worker(request: Request, env: Mapping[str, str], say: Callable[[str], None]) -> dict[str, Any]:
    """The plan that a worker process makes. What it compiles is said; what libtpu prints is not."""
    with tempfile.TemporaryDirectory(prefix="dpanet_jax_plan_") as folder:
        outcome, errors = Path(folder, "outcome.json"), Path(folder, "stderr")
        command = [sys.executable, "-m", "dpanet_jax.analysis.worker", str(outcome)]
        with (
            errors.open("wb") as stderr,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(env),
                text=True,
            ) as worker,
        ):
            try:
                assert worker.stdin and worker.stdout
                with worker.stdin:
                    json.dump(dataclasses.asdict(request), worker.stdin)
                for line in worker.stdout:
                    if line.startswith('{"compiling"'):
                        say(json.loads(line)["compiling"])
            except BaseException:
                worker.kill()  # It would go on compiling for nobody.
                raise
        if not outcome.is_file():
            words = errors.read_text(encoding="utf-8", errors="replace").splitlines()
            if words and words[-1].startswith("dpanet_jax: "):
                raise PlanError(words[-1].removeprefix("dpanet_jax: "))  # Of hosts that are not there.
            raise PlanError(
                f"the process that compiles ended with status {worker.returncode}; its last words:\n"
                + "\n".join(words[-20:])
            )
        result = json.loads(outcome.read_text(encoding="utf-8"))
    if "error" in result:
        raise (UsageError if result["exit_status"] == 2 else PlanError)(result["error"])
    return result["plan"]
