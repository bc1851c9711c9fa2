"""A stand-in for a network, whose predictions are computed by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

# ImageNet's, RGB in [0, 1], as torchvision documents them.
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Threshold:
    """Stands in for a Segmenter: logits of a pixel from its own colour, at the image's resolution."""

    dtype = jnp.float32
    num_classes = 3
    align_corners = False
    variables = {"weight": np.float32(1.5)}

    def apply(self, variables, images, train):
        assert train is False
        red, green, _ = jnp.moveaxis(images, -1, 0)
        logits = jnp.stack([-green, green, variables["weight"] * (red - green)], axis=-1)
        return {"logits": logits}

    @staticmethod
    def logits_by_hand(image):
        red, green, _ = np.moveaxis((image / 255 - MEAN) / STD, -1, 0)
        return np.stack([-green, green, 1.5 * (red - green)], axis=-1)

    @classmethod
    def by_hand(cls, image):
        return np.argmax(cls.logits_by_hand(image), axis=-1)


@pytest.fixture(scope="session")
def threshold():
    return Threshold
