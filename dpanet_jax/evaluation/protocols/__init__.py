"""Protocols: how an image is put through a network. One file each, and one line in the registry.

Axes: B batch, H and W of the image, K classes.
"""

import typing
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from dpanet_jax.evaluation.options import Evaluation
from dpanet_jax.evaluation.protocols.center_crop import CenterCrop
from dpanet_jax.evaluation.protocols.slide import Multiscale, Slide
from dpanet_jax.evaluation.protocols.whole import Whole
from dpanet_jax.options import choose


class Protocol(typing.Protocol):
    """What every protocol offers; it runs on this host's devices.

    `variables` are what `put` returned. A batch that splits over the devices is split. fills_up: whether
    it compiles for the shape of a batch, which rows of no image then fill up; where it does not,
    `ids` and `probabilities` take a list of images of any sizes too, and return one. lower: what to lower,
    in words, where the memory does not suffice.

    Its class has `takes`, the options of `Evaluation` that it is made of beside base_size.
    """

    name: str
    base_size: int
    fills_up: bool
    lower: str

    def put(self, variables: dict[str, Any]) -> dict[str, Any]:
        """A model's variables, whole on each of this host's devices."""

    def measured(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What of images uint8 (B, H, W, 3) and their labels (B, H, W) is measured."""

    def ids(self, images: Any, variables: dict[str, Any]) -> Any:
        """uint8 (B, H, W, 3) RGB → uint8 (B, H, W) class ids; 255 where it predicts nothing."""

    def each(self, batches: Iterable[np.ndarray], variables: dict[str, Any]) -> Iterator[np.ndarray]:
        """`ids` of one batch after another, each of a size of its own."""

    def probabilities(self, images: Any, variables: dict[str, Any]) -> Any:
        """uint8 (B, H, W, 3) RGB → float32 (B, H, W, K); they sum to 1 over K, or 0 for no prediction."""


PROTOCOLS: dict[str, Any] = {cls.name: cls for cls in (Whole, Slide, Multiscale, CenterCrop)}

# From so many sizes on, their compilations take longer than windows do.
MANY_SIZES = 5


def make(
    name: str,
    model: Any,
    *,
    base_size: int = 0,
    options: Evaluation | None = None,
    crop_size: tuple[int, ...] = (768, 768),
) -> Protocol:
    """The protocol of a name for a model (what `models.build` returns).

    `base_size` is the long side in pixels that an image is resized to before the network (0: its own size).
    `options` (none: the defaults) has what else the protocol takes; its `base_size` is not read. `crop_size`
    is the window where the options name none. Raises OptionError, with the names there are, for another one.
    """
    choose("protocol", name, PROTOCOLS)
    options, cls = options or Evaluation(), PROTOCOLS[name]
    given = {key: getattr(options, key) for key in cls.takes}
    if "window" in given and not any(given["window"]):
        given["window"] = crop_size
    return cls(model, base_size=base_size, **given)


def compilations(protocol: Protocol, sizes: int) -> str | None:
    """A line on what a protocol compiles for images of so many sizes; None where sizes do not matter."""
    if not protocol.fills_up or not sizes:
        return None
    line = f"protocol {protocol.name}: the network is compiled for {sizes} size{'s' * (sizes != 1)} of images"
    if sizes < MANY_SIZES:
        return line
    return (
        f"{line}; slide (--protocol, config.evaluation.protocol) compiles once whatever their sizes, and has "
        "figures of its own"
    )
