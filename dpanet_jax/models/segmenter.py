"""The whole network: a backbone, a head on c4, and an auxiliary head on c3 for training."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from dpanet_jax.models.heads import DualPoolHead, FCNHead
from dpanet_jax.models.resnet import ResNet


class Segmenter(nn.Module):
    """(B, H, W, 3) normalised images → {"logits": (B, h, w, K)} at the output stride, in at least float32.

    In training also "spatial" and "channel", the dual-pool head's branches, and "auxiliary"; with
    `with_stages` also "c1" to "c4". `build` says what the fields may be. Initialise it with train=True, as
    `init_variables` does: the auxiliary head and the branches' classifiers exist only there.
    `align_corners` is for whoever resizes the logits, the loss and the prediction.
    """

    num_classes: int
    head_name: str
    backbone_options: Any
    head_options: Any
    auxiliary: bool = True
    dropout: float = 0.1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    bn_variance: str = "unbiased"
    align_corners: bool = False

    def __post_init__(self):
        # Only so is the module hashable, and equal models share what is compiled for one of them.
        self.backbone_options = FrozenDict(self.backbone_options)
        self.head_options = FrozenDict(self.head_options)
        super().__post_init__()

    def setup(self):
        types = {
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "axis_name": self.axis_name,
            "bn_variance": self.bn_variance,
        }
        fcn_head = {"num_classes": self.num_classes, "dropout": self.dropout, **types}
        self.backbone = ResNet(**self.backbone_options, **types)
        if self.head_name == "dpanet":
            self.head = DualPoolHead(**fcn_head, **self.head_options)
        else:
            self.head = FCNHead(**fcn_head)
        if self.auxiliary:
            self.auxiliary_head = FCNHead(**fcn_head)

    def __call__(self, images: jax.Array, train: bool, with_stages: bool = False) -> dict[str, jax.Array]:
        stages = self.backbone(images.astype(self.dtype), train)
        outputs = self.head(stages["c4"], train)
        outputs = dict(outputs) if isinstance(outputs, dict) else {"logits": outputs}
        if self.auxiliary and train:
            outputs["auxiliary"] = self.auxiliary_head(stages["c3"], train)
        outputs = {k: v.astype(jnp.promote_types(v.dtype, jnp.float32)) for k, v in outputs.items()}
        return {**outputs, **stages} if with_stages else outputs


def init_variables(model: Segmenter, rng: jax.Array, image_size: tuple[int, int] = (64, 64)) -> dict:
    """{"params", "batch_stats"} from a PRNG key; `image_size` (H, W) changes no shape and no number."""
    return _init(model, rng, tuple(image_size))


# At module level, so that a process compiles it once for equal models: that takes far longer than it runs.
@partial(jax.jit, static_argnums=(0, 2))
def _init(model, rng, image_size):
    params_rng, dropout_rng = jax.random.split(rng)
    images = jnp.zeros((1, *image_size, 3), model.dtype)
    variables = model.init({"params": params_rng, "dropout": dropout_rng}, images, train=True)
    # Flax starts the statistics in float32 and would change to float64 at the first step.
    dtype = jnp.promote_types(model.param_dtype, jnp.float32)
    return {**variables, "batch_stats": jax.tree.map(lambda x: x.astype(dtype), variables["batch_stats"])}
