"""How one `train_step` runs on the devices: under `jit` over a mesh, or under `pmap`.

Both take and return the same trees: the state is whole on every device, a batch is split between them.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dpanet_jax.config import ConfigError

AXIS = "data"


def check_batch_size(batch_size: int, accumulate_steps: int = 1) -> None:
    """Raises ConfigError where a batch, or a part of it, does not split evenly over the devices."""
    parts = jax.device_count() * accumulate_steps
    if batch_size % parts:
        raise ConfigError(
            f"config.training.batch_size={batch_size} is not a multiple of {jax.device_count()} "
            f"devices × config.training.accumulate_steps={accumulate_steps}: use a multiple of {parts}"
        )


class Jit:
    """One program over a mesh with one axis, "data" (Auto: the compiler places the collectives)."""

    axis_name = None

    def __init__(self, devices=None):
        devices = jax.devices() if devices is None else devices
        # Auto and not make_mesh's default, Explicit: nn.Conv's gradient does not take the latter.
        self.mesh = Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))
        self.whole = NamedSharding(self.mesh, PartitionSpec())
        self.split = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def compile(self, train_step):
        return jax.jit(
            train_step,
            in_shardings=(self.whole, self.split),
            out_shardings=self.whole,
            donate_argnums=0,
        )

    def put_state(self, state):
        """A host's or a device's copy of the state → the copy that the compiled step takes."""
        return jax.device_put(state, self.whole)

    def put_batch(self, batch: dict) -> dict:
        """This process's rows (B / processes, …) → arrays of the global batch (B, …)."""
        return {
            key: jax.make_array_from_process_local_data(self.split, value) for key, value in batch.items()
        }

    def take_state(self, state):
        """The inverse of `put_state`: the state as plain, unstacked arrays."""
        return state


class Pmap:
    """One replica a device; the step itself reduces over the axis "data"."""

    axis_name = AXIS

    def __init__(self, devices=None):
        self.devices = jax.local_devices() if devices is None else list(devices)

    def compile(self, train_step):
        pmapped = jax.pmap(
            train_step, axis_name=AXIS, devices=self.devices, out_axes=(0, None), donate_argnums=0
        )
        return pmapped

    def put_state(self, state):
        mesh = Mesh(np.asarray(self.devices), (AXIS,), axis_types=(AxisType.Auto,))
        split = NamedSharding(mesh, PartitionSpec(AXIS))
        count = len(self.devices)
        stacked = jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))), state)
        return jax.device_put(stacked, split)

    def put_batch(self, batch: dict) -> dict:
        count = len(self.devices)
        return {key: x.reshape(count, x.shape[0] // count, *x.shape[1:]) for key, x in batch.items()}

    def take_state(self, state):
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)).reshape(x.shape[1:]), state)


PARALLELISMS = {"jit": Jit, "pmap": Pmap}
