"""The devices that a plan is for: a TPU slice that is not there, or those of this machine."""

import dataclasses
import os
from typing import Any

import jax

from dpanet_jax.analysis import chips
from dpanet_jax.analysis.chips import Chip, Slice
from dpanet_jax.errors import DPANetError


class PlanError(DPANetError, RuntimeError):
    """A plan could not be made; the text says why."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices, and what is known of them.

    memory: bytes that a program may have on one device. chip: published rates, None where there are none.
    slice: how TPU chips are linked. devices_per_chip: 2 on v4, where each of a chip's two cores is a device,
    else 1.
    """

    name: str
    devices: tuple[Any, ...]
    hosts: int
    memory: int
    chip: Chip | None = None
    slice: Slice | None = None
    devices_per_chip: int = 1


def find(topology: str) -> Machine:
    """The machine of `v5e:16x16` and the like, or else this one. PlanError where libtpu does not know it."""
    return _tpu(chips.parse(topology)) if topology.partition(":")[0] in chips.TPUS else _local()


def _tpu(parts: Slice) -> Machine:
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=parts.name)
    except Exception as error:  # libtpu's own errors have several types.
        raise PlanError(in_words(error, parts.name)) from error
    devices: tuple[Any, ...] = tuple(described.devices)
    per_chip = len(devices) // parts.chips
    return Machine(
        name=parts.chip.name,
        devices=devices,
        hosts=len({device.process_index for device in devices}),
        memory=parts.chip.usable // per_chip,
        chip=parts.chip,
        slice=parts,
        devices_per_chip=per_chip,
    )


def in_words(error: Exception, topology: str) -> str:
    """One line of what libtpu says."""
    text = " ".join(str(error).split())
    if "lockfile" in text or "already in use" in text:
        return (
            f"another process holds libtpu: wait for it, or remove /tmp/libtpu_lockfile if none does ({text})"
        )
    return f"libtpu has no topology {topology}: {text}"


def _local() -> Machine:
    devices = tuple(jax.devices())
    first = devices[0]
    kind = first.device_kind
    if first.platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
        name = "CPU" if len(devices) == 1 else "simulated CPU"
        return Machine(name, devices, jax.process_count(), memory)
    chip = chips.gpu_of(kind)
    stats = first.memory_stats() or {}
    memory = int(stats.get("bytes_limit", chip.memory if chip else 0))
    return Machine(kind, devices, jax.process_count(), memory, chip)
