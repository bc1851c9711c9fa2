"""The exponential moving average of a network's weights, which is evaluated and saved in their place.

As TensorFlow's `tf.train.ExponentialMovingAverage` with `num_updates`: it starts at the first weights, and
update t = 1, 2, … of the optimizer, to the weights w, makes it

    average = d · average + (1 − d) · w,   d = min(decay, (1 + t) / (10 + t)).

The smaller d of the first updates lets the first weights, which may be random, fade at once. The running
statistics of batch norm are averaged with the parameters, as timm's ModelEma does and `use_buffers=True` of
torch.optim.swa_utils.AveragedModel: the last ones are of activations that the averaged weights do not make.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def updated(average: Any, latest: Any, updates: ArrayLike, decay: float) -> Any:
    """The average after so many updates, int32 (), the last of which made `latest`, a tree like `average`.

    Arrays that do not change keep every bit.
    """
    # 1 − d, without the difference of two numbers near 1.
    share = jnp.maximum(1 - decay, 9 / (10 + jnp.asarray(updates, jnp.result_type(float))))
    return jax.tree.map(lambda old, new: old + share.astype(old.dtype) * (new - old), average, latest)
