"""Protocols: how an image is put through a network. One file each, and one line in the registry.

Axes: B batch, H and W of the image, K classes.
"""

import typing
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from dpanet_jax.evaluation.options import Evaluation
from dpanet_jax.evaluation.protocols.slide import Multiscale, Slide
from dpanet_jax.evaluation.protocols.whole import Whole
from dpanet_jax.options import choose


class Protocol(typing.Protocol):
    """What every protocol offers; it runs on this host's devices.

    `variables` are what `put` returned. A batch that splits over the devices is split. fills_up: whether
    it compiles for the shape of a batch, which rows of no image then fill up.
    """

    name: str
    base_size: int
    fills_up: bool

    def put(self, variables: dict[str, Any]) -> dict[str, Any]:
        """A model's variables, whole on each of this host's devices."""

    def ids(self, images: np.ndarray, variables: dict[str, Any]) -> np.ndarray:
        """uint8 (B, H, W, 3) RGB → uint8 (B, H, W) class ids."""

    def each(self, batches: Iterable[np.ndarray], variables: dict[str, Any]) -> Iterator[np.ndarray]:
        """`ids` of one batch after another, each of a size of its own."""

    def probabilities(self, images: np.ndarray, variables: dict[str, Any]) -> np.ndarray:
        """uint8 (B, H, W, 3) RGB → float32 (B, H, W, K); they sum to 1 over K."""


PROTOCOLS: dict[str, Any] = {cls.name: cls for cls in (Whole, Slide, Multiscale)}

# Of `Evaluation`, what only the protocols with windows take; and of these, what only `multiscale` does.
_OF_WINDOWS = ("window", "window_stride", "window_batch")
_OF_SCALES = ("scales", "flip")


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
    taken: tuple[str, ...] = ()
    if issubclass(cls, Slide):
        taken = _OF_WINDOWS + (_OF_SCALES if issubclass(cls, Multiscale) else ())
    given = {key: getattr(options, key) for key in taken}
    if "window" in given and not any(given["window"]):
        given["window"] = crop_size
    return cls(model, base_size=base_size, **given)
