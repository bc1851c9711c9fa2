"""A backbone of two convolutions: a step with it compiles in a second or two."""

from collections.abc import Callable, Iterator
from pathlib import Path

import flax.linen as nn
import jax
import pytest
from ml_collections import ConfigDict

from dpanet_jax.models import registry
from dpanet_jax.models.layers import Numerics

TINY = "two_convolutions"


class TwoConvolutions(nn.Module):
    """(B, H, W, 3) → {"c3", "c4"}, both (B, H/8, W/8, 8), by the package's own convolution and batch norm."""

    architecture: str = TINY
    numerics: Numerics = Numerics()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        conv, norm = self.numerics.layers(train)
        c3 = nn.relu(norm(name="norm1")(conv(8, stride=4, name="conv1")(images)))
        c4 = nn.relu(norm(name="norm2")(conv(8, stride=2, name="conv2")(c3)))
        return {"c3": c3[:, ::2, ::2], "c4": c4}


@pytest.fixture(scope="module")
def tiny_backbone() -> Iterator[str]:
    """The name of a tiny backbone, which the registry knows for as long as a module of tests runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKBONES, TINY, TwoConvolutions)
        yield TINY


@pytest.fixture(scope="module")
def make_config(tiny_backbone: str, streets_dir: Path) -> Callable[[], ConfigDict]:
    """A function that makes the config of a run of six steps of the tiny network, two evaluations."""

    def make() -> ConfigDict:
        from dpanet_jax.config import default_config

        config = default_config()
        config.data.data_dir = str(streets_dir)
        config.data.crop_size = (32, 32)
        config.data.base_size = 128
        config.imports = (TwoConvolutions.__module__,)
        config.model.name = "fcn"
        config.model.backbone = tiny_backbone
        config.optimizer.lr = 0.02
        config.training.batch_size = 8
        config.training.steps = 6
        config.training.epochs = 0
        config.evaluation.batch_size = 2
        config.evaluation.every_epochs = 3
        config.log_every_steps = 1
        config.pictures = 2
        return config

    return make
