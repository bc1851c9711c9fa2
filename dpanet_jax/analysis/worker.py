"""The process that compiles for a plan: `python -m dpanet_jax.analysis.worker OUTCOME`, the request on stdin.

A process of its own, because what it must set (the platform, the number of simulated devices, libtpu) cannot
be changed in one that has started JAX. It prints a line of JSON for each compilation that it begins, and
writes the plan, or what is wrong with the request, as JSON to the file OUTCOME.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from dpanet_jax import config as config_lib
from dpanet_jax import hosts, paths
from dpanet_jax.analysis import machine as machine_lib
from dpanet_jax.analysis.bounds import bounds
from dpanet_jax.analysis.cost import Cost, TooLarge, compile_step
from dpanet_jax.analysis.machine import Machine
from dpanet_jax.analysis.search import fits, largest_batch
from dpanet_jax.config import Sections
from dpanet_jax.errors import DPANetError, UsageError
from dpanet_jax.training.height import require_even_height


@dataclasses.dataclass(frozen=True)
class Request:
    """What `plan` asks for; `batch_size` 0 is the config's own, of all devices and hosts."""

    config: dict[str, Any]
    num_classes: int
    topology: str
    batch_size: int = 0
    search: bool = True
    variants: bool = True
    max_compiles: int = 5
    hosts: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments of `hosts.join`


def make_plan(request: Request) -> dict[str, Any]:
    """Compiles what is asked for. Returns the plan as JSON can hold it; see the docs' page on planning."""
    options = config_lib.sections(config_lib.from_dict(request.config))
    machine = machine_lib.find(request.topology)
    batch_size = request.batch_size or options.training.batch_size
    sharding = options.sharding
    images = images_of_a_device(
        batch_size, len(machine.devices), options.training.accumulate_steps, sharding.space
    )
    require_even_height(options)
    shards = len(machine.devices) // sharding.space

    def compiled(what: str, options: Sections, images: int) -> Cost | TooLarge:
        print(json.dumps({"compiling": f"{what}, {images} images a device"}), flush=True)
        return compile_step(options, request.num_classes, images * shards, machine.devices)

    step = compiled("the step", options, images)
    plan: dict[str, Any] = {
        "topology": request.topology,
        "machine": _described(machine),
        "sharding": dataclasses.asdict(sharding),
        "network": {"model": options.model, "crop_size": options.data.crop_size},
        "num_classes": request.num_classes,
        "batch_size": batch_size,
        "images_of_a_device": images,
        "step": _outcome(step, machine, options, batch_size),
        "variants": {},
    }
    if request.variants:
        for name, variant in variants_of(options).items():
            outcome = compiled(name, variant, images)
            plan["variants"][name] = _outcome(outcome, machine, variant, batch_size)
    if request.search and machine.memory:
        unit = options.training.accumulate_steps
        found = largest_batch(
            lambda images: compiled("the search", options, images),
            {images: step},
            memory=machine.memory,
            unit=unit,
            max_compiles=request.max_compiles,
        )
        plan["largest"] = {**dataclasses.asdict(found), "is_exact": found.is_exact(unit)}
    return plan


def images_of_a_device(batch_size: int, devices: int, accumulate_steps: int, space: int = 1) -> int:
    """Images of which a device has a part: all of each, or its share among `space` devices.

    UsageError where the batch does not split evenly.
    """
    if devices % space:
        raise UsageError(f"config.sharding.space={space} does not divide the {devices} devices")
    parts = devices // space * accumulate_steps
    if batch_size % parts or batch_size < parts:
        shared = f" / config.sharding.space={space}" if space > 1 else ""
        in_parts = f" × accumulate_steps={accumulate_steps}" if accumulate_steps > 1 else ""
        raise UsageError(
            f"--batch_size={batch_size} is not a multiple of {devices} devices{shared}{in_parts}: use a"
            f" multiple of {parts}"
        )
    return batch_size // (devices // space)


def variants_of(options: Sections) -> dict[str, Sections]:
    """The same run with the other value of each option that trades memory, time and digits."""

    def changed(**values: Any) -> Sections:
        return dataclasses.replace(options, model={**options.model, **values})

    other = {"float32": "bfloat16", "bfloat16": "float32"}.get(options.model["dtype"])
    found = {other: changed(dtype=other)} if other else {}
    if "remat" in options.model:
        remat = options.model["remat"]
        found["no remat" if remat else "remat"] = changed(remat=not remat)
    return found


def _described(machine: Machine) -> dict[str, Any]:
    parts = machine.slice
    return {
        "name": machine.name,
        "chips": parts.chips if parts else len(machine.devices),
        "devices": len(machine.devices),
        "hosts": machine.hosts,
        "memory": machine.memory,
        "links": parts.links if parts else None,
        "hops": parts.hops if parts else None,
        "rates": dataclasses.asdict(machine.chip) if machine.chip else None,
    }


def _outcome(
    outcome: Cost | TooLarge, machine: Machine, options: Sections, batch_size: int
) -> dict[str, Any]:
    if isinstance(outcome, TooLarge):
        return {"fits": False, "refused": dataclasses.asdict(outcome)}
    at_least = bounds(outcome, machine, options.model["dtype"])
    seconds = at_least.step
    return {
        "fits": fits(outcome, machine.memory) if machine.memory else None,
        "total_bytes": outcome.memory.total,
        **dataclasses.asdict(outcome),
        "seconds": {**dataclasses.asdict(at_least), "step": seconds, "limit": at_least.limit},
        "images_per_second": batch_size / seconds if seconds else None,
        "images_per_second_of_a_host": batch_size / seconds / machine.hosts if seconds else None,
    }


def main() -> int:
    """Reads the request, writes the outcome: {"plan": …} or {"error": text, "exit_status": 1 or 2}."""
    request = Request(**json.load(sys.stdin))
    try:
        if request.hosts:
            hosts.join(**request.hosts)
        outcome: dict[str, Any] = {"plan": make_plan(request)}
    except DPANetError as error:
        outcome = {"error": str(error), "exit_status": error.exit_status}
    paths.write_text(Path(sys.argv[1]), json.dumps(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
