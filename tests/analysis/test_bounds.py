"""The bounds of a step's time, by hand from the published rates."""

import dataclasses

import pytest

from dpanet_jax.analysis import chips
from dpanet_jax.analysis.bounds import Bounds, bounds
from dpanet_jax.analysis.cost import Cost, Memory
from dpanet_jax.analysis.hlo import Collective
from dpanet_jax.analysis.machine import Machine

MEMORY = Memory(0, 0, 0, 0, 0, 0, 0, 0)
SUMS = (
    Collective("all-reduce", "gradients", 1, 100_000_000, 16),
    Collective("all-reduce", "batch norm", 200, 1_000_000, 16),
)
COST = Cost(MEMORY, 0, flops=8e12, products=9e12, traffic=100e9, collectives=SUMS)


def machine(topology: str, per_chip: int = 1) -> Machine:
    parts = chips.parse(topology)
    devices = tuple(range(parts.chips * per_chip))
    return Machine(parts.name, devices, 1, 0, parts.chip, parts, per_chip)


def test_a_slice_by_hand() -> None:
    found = bounds(COST, machine("v5e:4x4"), "bfloat16")
    assert found.arithmetic == pytest.approx(8e12 / 197e12)
    assert found.memory == pytest.approx(100e9 / 819e9)
    # 2 · 15 ways of 101 MB over 48 directed links of 50 GB/s.
    assert found.interconnect == pytest.approx(2 * 15 * 101e6 / (48 * 50e9))
    # 201 sums that must cross 3 + 3 links of half a microsecond.
    assert found.latency == pytest.approx(201 * 6 * 0.5e-6)
    assert found.step == found.memory and found.limit == "memory"


def test_two_devices_share_a_chip() -> None:
    cost = dataclasses.replace(COST, collectives=())
    found = bounds(cost, machine("v4:2x2x1", per_chip=2), "bfloat16")
    assert found.arithmetic == pytest.approx(8e12 / (275e12 / 2))
    assert found.memory == pytest.approx(100e9 / (1200e9 / 2))
    assert found.interconnect == found.latency == 0


def test_gpus_by_hand() -> None:
    gpus = Machine("NVIDIA H100 80GB HBM3", tuple(range(16)), 2, 0, chips.gpu_of("NVIDIA H100 80GB HBM3"))
    found = bounds(COST, gpus, "float32")
    assert found.arithmetic == pytest.approx(8e12 / 494e12)
    assert found.interconnect == pytest.approx(2 * 15 * 101e6 / (16 * 450e9))
    assert found.latency is None
    # No rate is published for float64: what is left still bounds.
    assert bounds(COST, gpus, "float64").arithmetic is None
    assert bounds(COST, gpus, "float64").limit == "memory"


def test_nothing_is_said_of_a_device_without_published_rates() -> None:
    found = bounds(COST, Machine("CPU", (0,), 1, 0), "float32")
    assert found == Bounds(None, None, None, None)
    assert found.step is None and found.limit == ""
