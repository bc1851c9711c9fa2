"""From the backbone's features to class logits: the dual-pool head of the paper and the FCN head.

Axes: B batch, h and w of the feature map, C channels, K classes.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpanet_jax.models.attention import ChannelPoolAttention, NonLocal, SpatialPoolAttention, choose
from dpanet_jax.models.layers import layers

SPATIAL = ("spa", "nonlocal", "none")
CHANNEL = ("cpa", "none")
FUSION = ("concat", "sum")

# torch.nn.Conv2d's default, uniform in ±1/√fan_in, which the reference heads keep. The backbone's
# (variance 2/fan_out) would start a classifier of a few classes at logits of ±10 and more.
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def head_layers(dtype, param_dtype, axis_name, train: bool, bn_variance: str):
    """`layers`, with the heads' initialisation of a convolution."""
    conv, norm = layers(dtype, param_dtype, axis_name, train, bn_variance)
    return partial(conv, kernel_init=torch_default), norm


class ChannelDropout(nn.Module):
    """torch.nn.Dropout2d: in training, whole channels of an example are set to 0. (B, h, w, C) → the same.

    The mask is drawn for the global batch, and under a mapped axis each device takes its rows of it, so
    that the numbers do not depend on how a batch is spread over devices.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        batch, channels = x.shape[0], x.shape[-1]
        rng = self.make_rng("dropout")
        # At init no axis is bound; the mask's rows do not matter there.
        devices = 1 if self.axis_name is None or self.is_initializing() else jax.lax.axis_size(self.axis_name)
        keep = jax.random.bernoulli(rng, 1 - self.rate, (devices * batch, 1, 1, channels))
        if devices > 1:
            start = jax.lax.axis_index(self.axis_name) * batch
            keep = jax.lax.dynamic_slice_in_dim(keep, start, batch)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


class FCNHead(nn.Module):
    """PyTorch-Encoding's FCNHead: 3×3 to a quarter of the channels, BN, ReLU, dropout, 1×1 to K logits."""

    num_classes: int
    dropout: float = 0.1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    bn_variance: str = "unbiased"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv, norm = head_layers(self.dtype, self.param_dtype, self.axis_name, train, self.bn_variance)
        x = nn.relu(norm(name="bn")(conv(x.shape[-1] // 4, name="conv")(x)))
        x = ChannelDropout(self.dropout, self.axis_name)(x, train)
        return conv(self.num_classes, 1, use_bias=True, name="classifier")(x)


class DualPoolHead(nn.Module):
    """Two branches on c4, spatial and channel attention, joined (figure 2; SPEC, head).

    With `reduce_channels` each branch is conv3×3, BN, ReLU → module → conv3×3, BN, ReLU, as in DANet;
    with 0 or None the modules work straight on c4. `spatial` is "spa", "nonlocal" or "none", `channel`
    "cpa" or "none": "none" leaves the branch's convolutions and takes only its module out. `fusion` is
    "concat" or "sum". The non-local block's Ĉ is an eighth of its input's channels, as table 1's 256 of
    2048. Returns {"logits"}, in training also {"spatial", "channel"}: (B, h, w, K) each. Raises ValueError
    for an option out of its choices.
    """

    num_classes: int
    reduce_channels: int | None = 512
    fusion: str = "concat"
    spatial: str = "spa"
    channel: str = "cpa"
    pool_sizes: str = "mixed"
    qkv: str = "identity"
    pool: str = "avg"
    affinity: str = "subtract"
    dropout: float = 0.1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    bn_variance: str = "unbiased"

    @nn.compact
    def __call__(self, c4: jax.Array, train: bool) -> dict[str, jax.Array]:
        choose("fusion", self.fusion, FUSION)
        conv, norm = head_layers(self.dtype, self.param_dtype, self.axis_name, train, self.bn_variance)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def conv_norm_relu(x, name):
            if not self.reduce_channels:
                return x
            x = conv(self.reduce_channels, name=f"{name}_conv")(x)
            return nn.relu(norm(name=f"{name}_bn")(x))

        def classify(x, name):
            x = ChannelDropout(self.dropout, self.axis_name)(x, train)
            return conv(self.num_classes, 1, use_bias=True, name=name)(x)

        choose("spatial", self.spatial, SPATIAL)
        spatial = conv_norm_relu(c4, "spatial_in")
        if self.spatial == "spa":
            module = SpatialPoolAttention(self.pool_sizes, self.qkv, self.pool, **types, name="spa")
            spatial = module(spatial)
        elif self.spatial == "nonlocal":
            spatial = NonLocal(max(1, spatial.shape[-1] // 8), **types, name="nonlocal")(spatial)
        spatial = conv_norm_relu(spatial, "spatial_out")

        choose("channel", self.channel, CHANNEL)
        channel = conv_norm_relu(c4, "channel_in")
        if self.channel == "cpa":
            channel = ChannelPoolAttention(self.affinity, **types, name="cpa")(channel)
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
