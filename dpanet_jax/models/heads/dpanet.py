"""The paper's head: two branches, spatial and channel attention, joined (figure 2).

Axes: B batch, h and w of the feature map, C channels, K classes.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from dpanet_jax.models.attention import ChannelPoolAttention, NonLocal, SpatialPoolAttention
from dpanet_jax.models.heads.fcn import Dropout
from dpanet_jax.models.layers import ChannelDropout, Numerics, torch_default
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.options import Option, check_fields, own_fields


class DualPoolHead(nn.Module):
    """{"c1" … "c4"} → {"logits"}, in training also {"spatial", "channel"}: (B, h, w, K) each, from c4.

    With `reduce_channels` each branch is conv3×3, BN, ReLU → module → conv3×3, BN, ReLU, as in DANet;
    with 0 the modules work straight on c4. The non-local block's Ĉ is an eighth of its input's channels, as
    table 1's 256 of 2048. `options` holds those of the modules, by their keys. Raises OptionError for a
    value that an option may not have.
    """

    LOSS_TERMS: ClassVar[dict[str, LossTerm]] = {
        "fused": LossTerm("logits", 1.0),
        "spatial": LossTerm("spatial", 1.0),
        "channel": LossTerm("channel", 1.0),
    }

    num_classes: int
    numerics: Numerics = Numerics()
    reduce_channels: Annotated[
        int, Option("channels of a branch; 0: the modules straight on the last stage", least=0)
    ] = 512
    fusion: Annotated[Literal["concat", "sum"], Option("how the two branches are joined")] = "concat"
    spatial: Annotated[
        Literal["spa", "nonlocal", "none"],
        Option(
            "module of the spatial branch; none: the branch without it",
            selects={"spa": SpatialPoolAttention},
        ),
    ] = "spa"
    channel: Annotated[
        Literal["cpa", "none"],
        Option(
            "module of the channel branch; none: the branch without it", selects={"cpa": ChannelPoolAttention}
        ),
    ] = "cpa"
    dropout: Dropout = 0.1
    options: Mapping[str, Any] = FrozenDict()

    def __post_init__(self) -> None:
        check_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, stages: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        conv, norm = self.numerics.layers(train, torch_default)
        types = self.numerics.types()

        def conv_norm_relu(x: jax.Array, name: str) -> jax.Array:
            if not self.reduce_channels:
                return x
            x = conv(self.reduce_channels, name=f"{name}_conv")(x)
            return nn.relu(norm(name=f"{name}_bn")(x))

        def classify(x: jax.Array, name: str) -> jax.Array:
            x = ChannelDropout(self.dropout, self.numerics.axis_name)(x, train)
            return conv(self.num_classes, 1, use_bias=True, name=name)(x)

        spatial = conv_norm_relu(stages["c4"], "spatial_in")
        if self.spatial == "spa":
            options = own_fields(SpatialPoolAttention, self.options)
            spatial = SpatialPoolAttention(**options, **types, name="spa")(spatial)
        elif self.spatial == "nonlocal":
            spatial = NonLocal(max(1, spatial.shape[-1] // 8), **types, name="nonlocal")(spatial)
        spatial = conv_norm_relu(spatial, "spatial_out")

        channel = conv_norm_relu(stages["c4"], "channel_in")
        if self.channel == "cpa":
            options = own_fields(ChannelPoolAttention, self.options)
            channel = ChannelPoolAttention(**options, **types, name="cpa")(channel)
        channel = conv_norm_relu(channel, "channel_out")

        if self.fusion == "concat":
            fused = jnp.concatenate([spatial, channel], axis=-1)
        else:
            fused = spatial + channel
        outputs = {"logits": classify(fused, "classifier")}
        if train:
            outputs["spatial"] = classify(spatial, "spatial_classifier")
            outputs["channel"] = classify(channel, "channel_classifier")
        return outputs
