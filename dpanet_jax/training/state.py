"""What a training run carries from one step to the next."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpanet_jax.checkpoint import Restored


@flax.struct.dataclass
class TrainState:
    """`step` int32 (): updates made so far; the trees are Flax's and optax's own."""

    step: jax.Array | np.int32
    params: Any
    batch_stats: Any
    opt_state: Any

    @classmethod
    def create(cls, variables: dict[str, Any], optimizer: optax.GradientTransformation) -> "TrainState":
        """The state before the first step, from `model.init`'s variables."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=optimizer.init(variables["params"]),
        )

    @classmethod
    def from_checkpoint(cls, restored: Restored) -> "TrainState":
        """The state that a checkpoint holds, in host memory."""
        return cls(
            step=np.int32(restored.step),
            params=restored.variables["params"],
            batch_stats=restored.variables["batch_stats"],
            opt_state=restored.opt_state,
        )

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}
