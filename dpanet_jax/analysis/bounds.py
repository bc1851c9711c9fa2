"""How fast a step can be at best: its operations and bytes over the published peak rates."""

import dataclasses

from dpanet_jax.analysis.cost import Cost
from dpanet_jax.analysis.machine import Machine


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds that a step takes at least, by one limit each; None where no rate is published.

    memory is of all bytes that instructions read and write, those too that stay on the chip: an estimate, and
    the others are true bounds. latency: the collectives, one after another, across the machine.
    """

    arithmetic: float | None
    memory: float | None
    interconnect: float | None
    latency: float | None

    @property
    def step(self) -> float | None:
        """The longest of them."""
        return max((seconds for seconds in dataclasses.astuple(self) if seconds is not None), default=None)

    @property
    def limit(self) -> str:
        """The name of the longest of them."""
        known = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        return max(known, key=lambda key: known[key]) if known else ""


def bounds(cost: Cost, machine: Machine, dtype: str) -> Bounds:
    """The bounds of one step on every device of a machine, computed in this type."""
    chip = machine.chip
    if chip is None:
        return Bounds(None, None, None, None)
    peak, share = chip.peak(dtype), machine.devices_per_chip
    total = len(machine.devices)
    # A permutation names the pairs of all devices; the others work in groups of the same size.
    groups = {
        each: 1 if each.kind == "collective-permute" else total / each.group for each in cost.collectives
    }
    sent = sum(number * each.sent for each, number in groups.items())
    if machine.slice is None:
        capacity = total * chip.link_bandwidth
        latency = None
    else:
        capacity = machine.slice.links * chip.link_bandwidth
        across = {True: machine.slice.hops, False: 1}
        latency = chip.hop_seconds * sum(
            each.count * across[each.group == total] for each in cost.collectives
        )
    return Bounds(
        arithmetic=cost.flops / (peak / share) if peak else None,
        memory=cost.traffic / (chip.memory_bandwidth / share) if cost.traffic is not None else None,
        interconnect=sent / capacity,
        latency=latency,
    )
