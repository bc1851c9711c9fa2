"""Heights that several devices can share, by what the networks convolve."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import pytest
from ml_collections import ConfigDict

from dpanet_jax.config import ConfigError, default_config, sections
from dpanet_jax.models import registry
from dpanet_jax.models.layers import Numerics
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.training.height import require_even_height


def config(height: int, space: int, **model: Any) -> ConfigDict:
    made = default_config()
    made.model.update({"name": "fcn", "backbone": "resnet18", "width": 4, **model})
    made.data.crop_size = (height, 40)
    made.sharding.space = space
    return made


@pytest.mark.parametrize(
    ("stride", "space", "height"), [(8, 2, 48), (8, 4, 32), (16, 4, 64), (32, 3, 96), (8, 1, 41)]
)
def test_multiples_of_the_stride_times_the_devices(stride: int, space: int, height: int) -> None:
    require_even_height(sections(config(height, space, output_stride=stride)))
    if space > 1:
        # Half of it is even at the first layers, and not at the last.
        with pytest.raises(ConfigError, match=f"use a height that is a multiple of {stride * space}$"):
            require_even_height(sections(config(height + stride * space // 2, space, output_stride=stride)))


def test_a_network_in_float64() -> None:
    require_even_height(sections(config(32, 2, output_stride=16, dtype="float64")))


class Pooling(nn.Module):
    """(B, H, W, 3) → {"logits": (B, 6, 6, K)} after a 3×3 convolution of six rows, whatever H."""

    num_classes: int
    numerics: Numerics = Numerics()
    LOSS_TERMS = {"fused": LossTerm("logits", 1.0)}

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        conv, _ = self.numerics.layers(train)
        pooled = jax.image.resize(images, (images.shape[0], 6, 6, 3), "linear")
        return {"logits": conv(self.num_classes, name="conv")(pooled)}


def test_a_map_whose_height_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.NETWORKS, "pooling", Pooling)
    made = default_config()
    made.model.name = "pooling"
    made.data.crop_size = (64, 64)
    made.sharding.space = 2
    require_even_height(sections(made))
    made.sharding.space = 4
    with pytest.raises(ConfigError, match="convolves maps of 6 rows where the image has 256, and 4 devices"):
        require_even_height(sections(made))


def test_the_tiny_backbone_too(make_config: Callable[[], ConfigDict]) -> None:
    """By its convolutions and not by an option: it has none that says its stride."""
    made = make_config()
    made.sharding.space = 4
    require_even_height(sections(made))
    made.data.crop_size = (40, 32)
    with pytest.raises(ConfigError, match="cannot share 40 rows evenly .* multiple of 32$"):
        require_even_height(sections(made))
