"""How a run lies on devices and hosts: under `jit` over a mesh, or under `pmap`.

Both layouts take and return the same trees: the state is whole on every device, and a batch is split
between them.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dpanet_jax import hosts
from dpanet_jax.config import ConfigError
from dpanet_jax.training.state import TrainState

AXIS = "data"

# {"image", "label", "extent"}, of this process's rows or of the global batch; see `step`.
Batch: TypeAlias = dict[str, Any]
Metrics: TypeAlias = dict[str, jax.Array]
TrainStep: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def require_even_batches(batch_size: int, accumulate_steps: int, evaluation_batch_size: int) -> None:
    """Raises ConfigError where a batch does not split evenly over devices, parts and hosts.

    A training batch is split over all devices, in each of its `accumulate_steps` parts; an evaluation
    batch over the hosts.
    """
    parts = jax.device_count() * accumulate_steps
    if batch_size % parts:
        raise ConfigError(
            f"config.training.batch_size={batch_size} is not a multiple of {jax.device_count()} "
            f"devices × config.training.accumulate_steps={accumulate_steps}: use a multiple of {parts}, or "
            "show JAX fewer devices (CUDA_VISIBLE_DEVICES=0)"
        )
    if evaluation_batch_size % hosts.count():
        raise ConfigError(
            f"config.evaluation.batch_size={evaluation_batch_size} is not a multiple of the"
            f" {hosts.count()} hosts"
        )


def in_order(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """The devices host by host, so that each host's rows of a batch are one contiguous block."""
    return sorted(devices, key=lambda device: (device.process_index, device.id))


class Jit:
    """One program over a mesh with one axis, "data" (Auto: the compiler places the collectives)."""

    axis_name: str | None = None

    def __init__(self, devices: Sequence[jax.Device] | None = None) -> None:
        # Auto and not make_mesh's default, Explicit: nn.Conv's gradient does not take the latter.
        self.mesh = _mesh(in_order(jax.devices()) if devices is None else devices)
        self.whole = NamedSharding(self.mesh, PartitionSpec())
        self.split = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def compile(self, train_step: TrainStep) -> TrainStep:
        """The step over all devices; the state that it is given is used up."""
        return jax.jit(
            train_step,
            in_shardings=(self.whole, self.split),
            out_shardings=self.whole,
            donate_argnums=0,
        )

    def put_state(self, state: TrainState) -> TrainState:
        """The state in host memory, the same on every host → the copy that the compiled step takes."""

        def put(x: Any) -> jax.Array:
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, self.whole, lambda part: x[part])

        return jax.tree.map(put, state)

    def put_batch(self, batch: Batch) -> Batch:
        """This host's block of rows (B / blocks, …) → arrays of the global batch (B, …)."""
        block, blocks = self.block

        def put(rows: np.ndarray) -> jax.Array:
            first = block * len(rows)

            def part(index: Any) -> np.ndarray:
                start, stop, _ = index[0].indices(len(rows) * blocks)
                return rows[(slice(start - first, stop - first), *index[1:])]

            return jax.make_array_from_callback((len(rows) * blocks, *rows.shape[1:]), self.split, part)

        return {key: put(value) for key, value in batch.items()}

    @property
    def block(self) -> tuple[int, int]:
        """(index, count): which of how many contiguous blocks of the global batch's rows this host reads."""
        return hosts.index(), hosts.count()

    def take_state(self, state: TrainState) -> TrainState:
        """The inverse of `put_state`: the state as plain, unstacked arrays."""
        return state


class Pmap:
    """One replica a device, of all hosts; the step itself reduces over the axis "data"."""

    axis_name: str | None = AXIS

    def __init__(self, devices: Sequence[jax.Device] | None = None) -> None:
        self.devices = in_order(jax.devices()) if devices is None else list(devices)
        self.local = [device for device in self.devices if device.process_index == jax.process_index()]

    def compile(self, train_step: TrainStep) -> TrainStep:
        """The step on each device by itself; the state that it is given is used up."""
        return jax.pmap(
            train_step, axis_name=AXIS, devices=self.devices, out_axes=(0, None), donate_argnums=0
        )

    def put_state(self, state: TrainState) -> TrainState:
        """The state in host memory → a copy for each of this host's devices, stacked on a first axis."""
        split = NamedSharding(_mesh(self.local), PartitionSpec(AXIS))
        count = len(self.local)
        stacked = jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))), state)
        return jax.device_put(stacked, split)

    def put_batch(self, batch: Batch) -> Batch:
        """This host's block of rows (b, …) → (its devices, b / devices, …)."""
        count = len(self.local)
        return {key: x.reshape(count, x.shape[0] // count, *x.shape[1:]) for key, x in batch.items()}

    def take_state(self, state: TrainState) -> TrainState:
        """The inverse of `put_state`: the state as plain, unstacked arrays."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)).reshape(x.shape[1:]), state)

    @property
    def block(self) -> tuple[int, int]:
        """(index, count): which of how many contiguous blocks of the global batch's rows this host reads."""
        return hosts.index(), hosts.count()


Layout: TypeAlias = Jit | Pmap
LAYOUTS: dict[str, type[Jit] | type[Pmap]] = {"jit": Jit, "pmap": Pmap}


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))
