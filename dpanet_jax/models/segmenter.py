"""The whole network: a backbone, a head on its stages and an auxiliary head for training; or one of its own.

Axes: B batch, H and W of the image, h and w of the feature map, K classes.
"""

from collections import ChainMap
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from dpanet_jax.models.heads.fcn import FCNHead
from dpanet_jax.models.layers import Numerics
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.models.registry import BACKBONES, HEADS, NETWORKS
from dpanet_jax.options import Option, own_fields


class Segmenter(nn.Module):
    """(B, H, W, 3) normalised images → {"logits": (B, h, w, K)} at the output stride, in at least float32.

    In training also the head's other outputs (of DPANet "spatial" and "channel") and "auxiliary"; with
    `with_stages` also "c1" to "c4". `options` holds those of the backbone, the head and their modules, by
    their keys. Make one with `models.build`, which checks them all. Initialise it with train=True, as
    `init_variables` does: the auxiliary head and the branches' classifiers exist only there.
    """

    AUXILIARY_TERM: ClassVar[LossTerm] = LossTerm("auxiliary", 0.4)

    num_classes: int
    head_name: Annotated[
        str, Option("head on the backbone, or a whole network", key="name", selects=ChainMap(HEADS, NETWORKS))
    ] = "dpanet"
    backbone_name: Annotated[str, Option("backbone below the head", key="backbone", selects=BACKBONES)] = (
        "resnet50"
    )
    auxiliary: Annotated[bool, Option("train an FCN head on the third stage too")] = True
    # For whoever resizes the logits: the loss and the prediction.
    align_corners: Annotated[
        bool,
        Option("resize logits corner to corner, as PyTorch-Encoding's checkpoints; else by pixels' centres"),
    ] = False
    numerics: Numerics = Numerics()
    options: Mapping[str, Any] = FrozenDict()
    # False: the backbone is called as in inference in training too.
    backbone_trains: bool = True

    def __post_init__(self) -> None:
        # Only so is the module hashable, and equal models share what is compiled for one of them.
        self.options = FrozenDict(self.options)
        super().__post_init__()

    @property
    def dtype(self) -> jnp.dtype:
        """The type that the network computes in."""
        return jnp.dtype(self.numerics.dtype)

    def loss_terms(self) -> dict[str, LossTerm]:
        """The terms of the loss that the network's outputs allow, with their default weights."""
        if self.head_name in NETWORKS:
            return dict(NETWORKS[self.head_name].LOSS_TERMS)
        own = {"auxiliary": self.AUXILIARY_TERM} if self.auxiliary else {}
        return {**HEADS[self.head_name].LOSS_TERMS, **own}

    def setup(self) -> None:
        if self.head_name in NETWORKS:
            self.network = self._make(NETWORKS[self.head_name], num_classes=self.num_classes)
            return
        self.backbone = self._make(BACKBONES[self.backbone_name], architecture=self.backbone_name)
        self.head = self._make(HEADS[self.head_name], num_classes=self.num_classes)
        if self.auxiliary:
            self.auxiliary_head = self._make(FCNHead, num_classes=self.num_classes, stage="c3")

    def _make(self, cls: type[nn.Module], **given: Any) -> nn.Module:
        if "options" in cls.__dataclass_fields__:
            given["options"] = self.options
        return cls(**given, **own_fields(cls, self.options), numerics=self.numerics)

    def __call__(self, images: jax.Array, train: bool, with_stages: bool = False) -> dict[str, jax.Array]:
        images = images.astype(self.dtype)
        stages: dict[str, jax.Array] = {}
        if self.head_name in NETWORKS:
            outputs = self.network(images, train)
        else:
            stages = self.backbone(images, train and self.backbone_trains)
            outputs = self.head(stages, train)
            if self.auxiliary and train:
                outputs = {**outputs, "auxiliary": self.auxiliary_head(stages, train)["logits"]}
        outputs = {k: v.astype(jnp.promote_types(v.dtype, jnp.float32)) for k, v in outputs.items()}
        return {**outputs, **stages} if with_stages else outputs


def init_variables(
    model: Segmenter, rng: jax.Array, image_size: tuple[int, int] = (64, 64)
) -> dict[str, Any]:
    """{"params", "batch_stats"} from a PRNG key; `image_size` (H, W) changes no shape and no number."""
    return _init(model, rng, tuple(image_size))


# At module level, so that a process compiles it once for equal models: that takes far longer than it runs.
@partial(jax.jit, static_argnums=(0, 2))
def _init(model: Segmenter, rng: jax.Array, image_size: tuple[int, int]) -> dict[str, Any]:
    params_rng, dropout_rng = jax.random.split(rng)
    images = jnp.zeros((1, *image_size, 3), model.dtype)
    variables = model.init({"params": params_rng, "dropout": dropout_rng}, images, train=True)
    # Flax starts the statistics in float32 and would change to float64 at the first step.
    dtype = jnp.promote_types(jnp.dtype(model.numerics.param_dtype), jnp.float32)
    statistics = jax.tree.map(lambda x: x.astype(dtype), variables.get("batch_stats", {}))
    return {**variables, "batch_stats": statistics}
