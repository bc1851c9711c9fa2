"""How a run lies on devices and hosts: under `jit` over a mesh, or under `pmap`.

Both layouts take and return the same trees, and a batch is split between the devices. The state is whole on
every device, and each image on one of them, but for what `Jit` is told to split too.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dpanet_jax import compiler, hosts
from dpanet_jax.config import ConfigError
from dpanet_jax.training.options import Sharding
from dpanet_jax.training.state import TrainState

AXIS = "data"
SPACE = "space"
_NOTHING_MORE = Sharding()

# {"image", "label", "extent"}, of this process's rows or of the global batch; see `step`.
Batch: TypeAlias = dict[str, Any]
Metrics: TypeAlias = dict[str, jax.Array]
TrainStep: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def require_even_batches(
    batch_size: int, accumulate_steps: int, evaluation_batch_size: int, space: int = 1
) -> None:
    """Raises ConfigError where a batch does not split evenly over devices, parts and hosts.

    A training batch is split over all devices, `space` of which share each image, in each of its
    `accumulate_steps` parts; an evaluation batch over the hosts.
    """
    devices = jax.device_count()
    if devices % space:
        raise ConfigError(f"config.sharding.space={space} does not divide the {devices} devices")
    local = jax.local_device_count()
    if max(space, local) % min(space, local):
        raise ConfigError(
            f"config.sharding.space={space} neither divides the {local} devices of a host nor is a multiple"
            " of them, and hosts read whole images"
        )
    parts = devices // space * accumulate_steps
    if batch_size % parts:
        shared = f" / config.sharding.space={space}" if space > 1 else ""
        raise ConfigError(
            f"config.training.batch_size={batch_size} is not a multiple of {devices} "
            f"devices{shared} × config.training.accumulate_steps={accumulate_steps}: use a multiple of "
            f"{parts}, or show JAX fewer devices (CUDA_VISIBLE_DEVICES=0)"
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
    """One program over a mesh (Auto: the compiler places the collectives) of two axes, "data" and "space".

    The batch is split over "data", and the height of its images over "space", whose length is
    `sharding.space`. Of the state, kernels and what the optimizer keeps of them may be split over "data" too.
    """

    axis_name: str | None = None

    def __init__(
        self, devices: Sequence[jax.Device] | None = None, sharding: Sharding = _NOTHING_MORE
    ) -> None:
        devices = in_order(jax.devices() if devices is None else devices)
        # Auto and not make_mesh's default, Explicit: nn.Conv's gradient does not take the latter.
        self.mesh = Mesh(
            np.asarray(devices).reshape(-1, sharding.space), (AXIS, SPACE), axis_types=(AxisType.Auto,) * 2
        )
        self.sharding = sharding
        self.whole = NamedSharding(self.mesh, PartitionSpec())
        image = NamedSharding(self.mesh, PartitionSpec(AXIS, SPACE))
        self.batch_shardings = {
            "image": image,
            "label": image,
            "extent": NamedSharding(self.mesh, PartitionSpec(AXIS)),
        }

    def state_shardings(self, state: TrainState) -> TrainState:
        """How each array of a state lies on the devices; only the shapes of `state` count."""
        split = self.sharding.state
        shardings: TrainState = jax.tree.map(lambda _: self.whole, state)
        if split != "whole":
            # The average is the optimizer's alone, too: no step computes with it.
            own = {"opt_state": self._split(state.opt_state), "ema": self._split(state.ema)}
            shardings = dataclasses.replace(shardings, **own)
        if split == "parameters":
            shardings = dataclasses.replace(shardings, params=self._split(state.params))
        return shardings

    def gather(self, params: Any) -> Any:
        """Parameters as the step has them → whole on every device, as the network computes with them."""
        if self.sharding.state != "parameters":
            return params
        return jax.lax.with_sharding_constraint(params, jax.tree.map(lambda _: self.whole, params))

    def scatter(self, grads: Any) -> Any:
        """Gradients → as the optimizer's state lies, so that each device updates its own part."""
        if self.sharding.state == "whole":
            return grads
        # By way of whole arrays: the compiler would else split the network's own products by their channels.
        grads = jax.lax.with_sharding_constraint(grads, jax.tree.map(lambda _: self.whole, grads))
        return jax.lax.with_sharding_constraint(grads, self._split(grads))

    def compile(self, train_step: TrainStep, state: TrainState) -> TrainStep:
        """The step over all devices, for states of these shapes; the state that it is given is used up."""
        shardings = self.state_shardings(state)
        return jax.jit(
            train_step,
            in_shardings=(shardings, self.batch_shardings),
            out_shardings=(shardings, self.whole),
            donate_argnums=0,
            compiler_options=compiler.options(self.mesh.devices.flat[0].platform),
        )

    def laid(self, state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
        """The shapes of a state and a global batch → those of what `put_state` and `put_batch` make."""

        def on_devices(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        shardings = self.state_shardings(state), self.batch_shardings
        laid: tuple[TrainState, Batch] = jax.tree.map(on_devices, (state, batch), shardings)
        return laid

    def put_state(self, state: TrainState) -> TrainState:
        """The state in host memory, the same on every host → the copy that the compiled step takes."""

        def put(x: Any, sharding: NamedSharding) -> jax.Array:
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

        laid: TrainState = jax.tree.map(put, state, self.state_shardings(state))
        return laid

    def put_batch(self, batch: Batch) -> Batch:
        """This host's block of rows (B / blocks, …) → arrays of the global batch (B, …)."""
        block, blocks = self.block

        def put(rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
            first = block * len(rows)

            def part(index: Any) -> np.ndarray:
                start, stop, _ = index[0].indices(len(rows) * blocks)
                return rows[(slice(start - first, stop - first), *index[1:])]

            return jax.make_array_from_callback((len(rows) * blocks, *rows.shape[1:]), sharding, part)

        return {key: put(value, self.batch_shardings[key]) for key, value in batch.items()}

    @property
    def block(self) -> tuple[int, int]:
        """(index, count): which of how many contiguous blocks of the global batch's rows this host reads.

        Hosts whose devices share images read the same block.
        """
        here = jax.process_index()
        rows = [i for i, row in enumerate(self.mesh.devices) if here in {each.process_index for each in row}]
        return rows[0] // len(rows), len(self.mesh.devices) // len(rows)

    def take_state(self, state: TrainState) -> TrainState:
        """The inverse of `put_state`: the state as plain arrays, each of them whole."""
        return jax.tree.map(self._take, state)

    def _take(self, array: jax.Array) -> Any:
        if array.is_fully_replicated:
            return array
        if array.is_fully_addressable:
            return np.asarray(array)
        # One array at a time, so that no device must hold the whole state at once.
        return np.asarray(jax.jit(lambda x: x, out_shardings=self.whole)(array).addressable_data(0))

    def _split(self, tree: Any) -> Any:
        """A sharding for each array: a kernel's longest axis that "data" divides, other arrays whole."""
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._spec(np.shape(leaf))), tree)

    def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        count = self.mesh.shape[AXIS]
        even = [axis for axis, length in enumerate(shape) if length % count == 0]
        if len(shape) < 2 or not even:
            return PartitionSpec()
        axis = max(even, key=lambda axis: shape[axis])
        return PartitionSpec(*[AXIS if i == axis else None for i in range(len(shape))])


class Pmap:
    """One replica a device, of all hosts; the step itself reduces over the axis "data"."""

    axis_name: str | None = AXIS

    def __init__(self, devices: Sequence[jax.Device] | None = None) -> None:
        self.devices = in_order(jax.devices() if devices is None else devices)
        self.local = [device for device in self.devices if device.process_index == jax.process_index()]

    def gather(self, params: Any) -> Any:
        """As `Jit.gather`: they are whole."""
        return params

    def scatter(self, grads: Any) -> Any:
        """As `Jit.scatter`: they stay whole."""
        return grads

    def compile(self, train_step: TrainStep, state: TrainState) -> TrainStep:
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


def make(parallelism: str, sharding: Sharding) -> Layout:
    """The layout over all devices that the options name; only `Jit` splits more than the batch."""
    return Jit(sharding=sharding) if parallelism == "jit" else LAYOUTS[parallelism]()


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))
