"""Protocols: how an image is put through a network. One file each, and one line in the registry.

Axes: B batch, H and W of the image, K classes.
"""

import typing
from typing import Any

import numpy as np

from dpanet_jax.evaluation.protocols.whole import Whole
from dpanet_jax.options import choose


class Protocol(typing.Protocol):
    """What every protocol offers; it runs on this host's devices.

    `variables` are what `put` returned. A batch that splits over the devices is split.
    """

    name: str
    base_size: int

    def put(self, variables: dict[str, Any]) -> dict[str, Any]:
        """A model's variables, whole on each of this host's devices."""

    def ids(self, images: np.ndarray, variables: dict[str, Any]) -> np.ndarray:
        """uint8 (B, H, W, 3) RGB → uint8 (B, H, W) class ids."""

    def probabilities(self, images: np.ndarray, variables: dict[str, Any]) -> np.ndarray:
        """uint8 (B, H, W, 3) RGB → float32 (B, H, W, K); they sum to 1 over K."""


PROTOCOLS: dict[str, Any] = {Whole.name: Whole}


def make(name: str, model: Any, *, base_size: int = 0) -> Protocol:
    """The protocol of a name for a model (what `models.build` returns).

    `base_size` is the long side in pixels that an image is resized to before the network (0: its own size).
    Raises OptionError, with the names there are, for another one.
    """
    choose("protocol", name, PROTOCOLS)
    return PROTOCOLS[name](model, base_size=base_size)
