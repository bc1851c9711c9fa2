"""PyTorch-Encoding's FCN head: also the auxiliary head of every network.

Axes: B batch, h and w of the feature map, C channels, K classes.
"""

from typing import Annotated, ClassVar

import flax.linen as nn
import jax

from dpanet_jax.models.layers import ChannelDropout, Numerics, torch_default
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.options import Option, check_fields

Dropout = Annotated[float, Option("share of the channels dropped before each classifier", least=0, below=1)]


class FCNHead(nn.Module):
    """3×3 to a quarter of the channels, BN, ReLU, dropout, 1×1 to K logits.

    {"c1" … "c4"} → {"logits": (B, h, w, K)}, from the stage that is named.
    """

    LOSS_TERMS: ClassVar[dict[str, LossTerm]] = {"fused": LossTerm("logits", 1.0)}

    num_classes: int
    numerics: Numerics = Numerics()
    dropout: Dropout = 0.1
    stage: str = "c4"

    def __post_init__(self) -> None:
        check_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, stages: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        conv, norm = self.numerics.layers(train, torch_default)
        x = stages[self.stage]
        x = nn.relu(norm(name="bn")(conv(x.shape[-1] // 4, name="conv")(x)))
        x = ChannelDropout(self.dropout, self.numerics.axis_name)(x, train)
        return {"logits": conv(self.num_classes, 1, use_bias=True, name="classifier")(x)}
