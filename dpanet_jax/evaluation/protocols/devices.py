"""This host's devices, over which a batch of images or windows is split."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dpanet_jax import compiler
from dpanet_jax.models import winograd


class LocalDevices:
    """Lays variables whole on each device, and the rows of a batch side by side. count: of the devices."""

    def __init__(self) -> None:
        mesh = Mesh(np.asarray(jax.local_devices()), ("data",), axis_types=(AxisType.Auto,))
        self.count = mesh.size
        self._platform = mesh.devices.flat[0].platform
        self._options = compiler.options(self._platform)
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec("data"))

    def compile(self, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        """`jax.jit` of what the network computes on these devices."""
        return jax.jit(function, compiler_options=self._options)

    def put_variables(self, variables: dict[str, Any], dtype: Any) -> dict[str, Any]:
        """Those of a network that computes in `dtype`, whole on each device.

        What depends on nothing else, and would be computed anew for every batch, is beside them. So variables
        that change are put again, whole: a kernel that is replaced in what this returns is not used.
        """
        whole = jax.device_put(variables, self._whole)
        by_tiles = self._platform == "cpu" and dtype == jnp.float32
        return winograd.with_transformed_kernels(whole) if by_tiles else whole

    def put_rows(self, rows: np.ndarray) -> jax.Array:
        """(B, …), split over the devices where they divide B; else whole on each."""
        return jax.device_put(rows, self._whole if len(rows) % self.count else self._split)
