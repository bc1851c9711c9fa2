"""Published peak rates of accelerators, each with its source, and how the chips of a TPU slice are linked."""

import dataclasses
import math
from collections.abc import Mapping

from dpanet_jax.errors import UsageError
from dpanet_jax.options import did_you_mean

_BOOK = "https://jax-ml.github.io/scaling-book/tpus"
_CLOUD = "https://docs.cloud.google.com/tpu/docs"


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip: operations/s by type of the computation, bytes and bytes/s.

    usable is what of the memory a program may have, which for a TPU libtpu's compiler says (0.0.42).
    link_bandwidth is of one link in one direction; a GPU's is all of its NVLink in one direction.
    hop_seconds is the latency from a chip to its neighbour; 0 where none is published. wraps is the length,
    or the multiple, from which an axis of a slice is closed to a ring; 0: `links` does not apply.
    """

    name: str
    flops: Mapping[str, float]
    memory: int
    usable: int
    memory_bandwidth: float
    link_bandwidth: float
    sources: Mapping[str, str]
    hop_seconds: float = 0.0
    wraps: int = 0
    axes: int = 0
    largest: tuple[int, ...] = ()

    def peak(self, dtype: str) -> float | None:
        """Operations/s of matrix products and convolutions in this type, by JAX's default precision."""
        return self.flops.get(dtype)


def _tpu(
    name: str,
    page: str,
    flops: float,
    memory: int,
    usable: float,
    memory_bandwidth: float,
    link_bandwidth: float,
    *,
    axes: int,
    wraps: int,
    largest: tuple[int, ...],
    hop_seconds: float = 1e-6,
) -> Chip:
    """A TPU. JAX's default precision computes float32's products in one pass of bfloat16."""
    return Chip(
        name=f"TPU {name}",
        flops={"bfloat16": flops, "float32": flops},
        memory=memory * 2**30,
        usable=int(usable * 2**30),
        memory_bandwidth=memory_bandwidth,
        link_bandwidth=link_bandwidth,
        sources={
            "flops": f"{_CLOUD}/{page}",
            "memory": f"{_CLOUD}/{page}",
            "memory_bandwidth": f"{_CLOUD}/{page}",
            "link_bandwidth": _BOOK,
            "hop_seconds": _BOOK if name == "v5e" else "https://jax-ml.github.io/scaling-book/sharding",
        },
        hop_seconds=hop_seconds,
        wraps=wraps,
        axes=axes,
        largest=largest,
    )


# By the name that libtpu takes before the colon of a topology.
TPUS: dict[str, Chip] = {
    "v4": _tpu("v4", "v4", 275e12, 32, 30.5, 1200e9, 45e9, axes=3, wraps=4, largest=(16, 16, 16)),
    "v5e": _tpu(
        "v5e", "v5e", 197e12, 16, 15.75, 819e9, 50e9, axes=2, wraps=16, largest=(16, 16), hop_seconds=0.5e-6
    ),
    "v5p": _tpu("v5p", "v5p", 459e12, 95, 95.74, 2765e9, 100e9, axes=3, wraps=4, largest=(16, 16, 24)),
    "v6e": _tpu("v6e", "v6e", 918e12, 32, 31.25, 1638e9, 100e9, axes=2, wraps=16, largest=(16, 16)),
}


def _gpu(
    name: str, page: str, flops: float, tf32: float, memory: int, memory_bandwidth: float, nvlink: float
) -> Chip:
    """An NVIDIA GPU. JAX's default precision computes float32's products in TF32; rates without sparsity."""
    kinds = ("flops", "memory", "memory_bandwidth", "link_bandwidth")
    return Chip(
        name=name,
        flops={"bfloat16": flops, "float32": tf32},
        memory=memory * 10**9,
        usable=memory * 10**9,
        memory_bandwidth=memory_bandwidth,
        link_bandwidth=nvlink,
        sources=dict.fromkeys(kinds, f"https://www.nvidia.com/en-us/data-center/{page}/"),
    )


# By a part of JAX's `device_kind`, the longer names first.
GPUS: dict[str, Chip] = {
    "A100-SXM4-80GB": _gpu("NVIDIA A100 80GB SXM", "a100", 312e12, 156e12, 80, 2039e9, 300e9),
    "A100-SXM4-40GB": _gpu("NVIDIA A100 40GB SXM", "a100", 312e12, 156e12, 40, 1555e9, 300e9),
    "H100 80GB HBM3": _gpu("NVIDIA H100 SXM", "h100", 989e12, 494e12, 80, 3350e9, 450e9),
    "H200": _gpu("NVIDIA H200 SXM", "h200", 989e12, 494e12, 141, 4800e9, 450e9),
}


def gpu_of(device_kind: str) -> Chip | None:
    """The chip of a local device, by the name that JAX gives its kind; None where its rates are not here."""
    return next((chip for part, chip in GPUS.items() if part in device_kind), None)


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips of one kind, linked to their neighbours along each axis of `shape`."""

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    def is_ring(self, axis: int) -> bool:
        """Whether the chips at the two ends of an axis are linked.

        On v5e and v6e that is so for an axis of 16, on v4 and v5p for one whose length is a multiple of 4.
        """
        length, wraps = self.shape[axis], self.chip.wraps
        return length == wraps if self.chip.axes == 2 else length % wraps == 0

    @property
    def links(self) -> int:
        """Links of the whole slice, each counted once for each direction."""
        pairs = 0
        for axis, length in enumerate(self.shape):
            along = length if self.is_ring(axis) else length - 1
            pairs += self.chips // length * along
        return 2 * pairs

    @property
    def hops(self) -> int:
        """Links between the two chips that are farthest apart."""
        return sum(
            length // 2 if self.is_ring(axis) else length - 1 for axis, length in enumerate(self.shape)
        )


def parse(topology: str) -> Slice:
    """`v5e:16x16` → its chips. UsageError, with the choices, for one that is not known or that nobody has.

    A host has 2x2 chips, so that the first two lengths are even.
    """
    generation, _, text = topology.partition(":")
    if generation not in TPUS:
        raise UsageError(f"--topology={topology}: {known()}{did_you_mean(generation, TPUS)}")
    chip = TPUS[generation]
    lengths = text.split("x")
    shape = tuple(int(length) for length in lengths if length.isdigit())
    fits = len(shape) == len(lengths) == chip.axes
    fits = fits and all(1 <= own <= most for own, most in zip(shape, chip.largest, strict=True))
    if not fits or shape[0] % 2 or shape[1] % 2:
        raise UsageError(
            f"--topology={topology}: the shape of a {generation} is {_shape_in_words(chip)}, such as "
            f"{generation}:{'x'.join(['2'] * 2 + ['1'] * (chip.axes - 2))}"
        )
    return Slice(topology, chip, shape)


def known() -> str:
    """The topologies that there are, in words."""
    tpus = ", ".join(f"{name}:{'x'.join('XYZ'[: chip.axes])}" for name, chip in TPUS.items())
    return f"choose a TPU slice ({tpus}; v5e:16x16 is one), local, or cpu:N for N simulated devices"


def _shape_in_words(chip: Chip) -> str:
    axes = "x".join("XYZ"[: chip.axes])
    return f"{axes}, at most {'x'.join(map(str, chip.largest))}, X and Y even"
