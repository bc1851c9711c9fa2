"""What a training run carries from one step to the next."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpanet_jax.checkpoint import Restored
from dpanet_jax.training import freezing
from dpanet_jax.training.errors import NotFinite
from dpanet_jax.training.options import Training

_PLAIN = Training()


@flax.struct.dataclass
class TrainState:
    """`step` int32 (): updates made so far; the trees are Flax's and optax's own.

    ema: the average of the parameters and the batch statistics, {"params", "batch_stats"}; None: it is off.
    """

    step: jax.Array | np.int32
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None

    @classmethod
    def create(
        cls, variables: dict[str, Any], optimizer: optax.GradientTransformation, options: Training = _PLAIN
    ) -> "TrainState":
        """The state before the first step, from `model.init`'s variables.

        The optimizer's is of what is trained alone; see `freezing`.
        """
        params, batch_stats = variables["params"], variables["batch_stats"]
        trained, _ = freezing.split(params, batch_stats, options.freeze)
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=optimizer.init(trained),
            ema={"params": params, "batch_stats": batch_stats} if options.ema_decay else None,
        )

    @classmethod
    def from_checkpoint(cls, restored: Restored) -> "TrainState":
        """The state that a checkpoint holds, in host memory."""
        trained = restored.variables if restored.trained is None else restored.trained
        return cls(
            step=np.int32(restored.step),
            params=trained["params"],
            batch_stats=trained["batch_stats"],
            opt_state=restored.opt_state,
            ema=None if restored.trained is None else restored.variables,
        )

    def to_host(self) -> "TrainState":
        """A copy in host memory, as NumPy arrays."""
        copy: TrainState = jax.tree.map(np.array, self)
        return copy

    def require_finite(self) -> None:
        """Raises NotFinite, naming the array, where one holds a number that is infinite or none.

        A step's loss and gradient may be finite while its update, or a statistic of batch norm, is not.
        """
        trees = {**self.trained, "optimizer": self.opt_state, "ema": self.ema}
        for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
            if not np.isfinite(leaf).all():
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise NotFinite(f"{name} is not finite after step {int(self.step)}")

    @property
    def trained(self) -> dict[str, Any]:
        """What the last update has made, as `model.apply` takes it."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def variables(self) -> dict[str, Any]:
        """What is evaluated, as `model.apply` takes it: the average, where one is kept."""
        return self.trained if self.ema is None else self.ema

    @property
    def items(self) -> dict[str, Any]:
        """What a checkpoint holds of the state, by the names that its parts have there."""
        items = {"model": self.variables, "optimizer": self.opt_state}
        return items if self.ema is None else {**items, "trained": self.trained}
