"""How a model is evaluated: the options of `config.evaluation`."""

import dataclasses
from typing import Annotated, Any, Literal

from dpanet_jax.options import Option, OptionError, declared


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluation while training, and what `evaluate` and `predict` do unless told otherwise."""

    every_epochs: Annotated[int, Option("epochs between two evaluations", least=1, kind="evaluation")] = 1
    batch_size: Annotated[
        int, Option("images a batch, over all devices and hosts", least=1, kind="evaluation")
    ] = 8
    protocol: Annotated[
        Literal["whole", "slide", "multiscale", "center_crop"],
        Option("how an image is put through the network", kind="evaluation"),
    ] = "whole"
    base_size: Annotated[
        int,
        Option(
            "long side that images are resized to before the network; 0: their own size",
            least=0,
            kind="evaluation",
        ),
    ] = 0
    absent: Annotated[
        Literal["exclude", "zero"],
        Option(
            "a class that neither labels nor predictions have: left out of the mean IoU, or counted as 0",
            kind="evaluation",
        ),
    ] = "exclude"
    window: Annotated[
        tuple[int, ...],
        Option(
            "height and width of the windows of slide and multiscale, and of center_crop's crop; "
            "(0, 0): the training crop's",
            least=0,
            length=2,
            kind="evaluation",
        ),
    ] = (0, 0)
    window_stride: Annotated[
        float, Option("from window to window, as a part of the window", above=0, most=1, kind="evaluation")
    ] = 2 / 3
    window_batch: Annotated[
        int, Option("windows or centre crops that each device computes at a time", least=1, kind="operation")
    ] = 1
    scales: Annotated[
        tuple[float, ...],
        Option("scales of multiscale, of the image or of base_size", above=0, kind="evaluation"),
    ] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    flip: Annotated[bool, Option("let multiscale see each window mirrored too", kind="evaluation")] = True

    def __post_init__(self) -> None:
        if any(self.window) and not all(self.window):
            raise OptionError(f"window={self.window!r}: both must be 0, or neither")
        if self.protocol == "center_crop" and self.base_size:
            raise OptionError(
                f"base_size={self.base_size}: protocol=center_crop resizes the short side to its crop; "
                "leave it at 0"
            )
        if not self.scales:
            raise OptionError("scales=(): name at least one")


def replaced(options: Evaluation, **values: Any) -> Evaluation:
    """The options with other values; None leaves one. Raises OptionError for a value that cannot be."""
    given = {key: value for key, value in values.items() if value is not None}
    checks = declared(Evaluation)
    return dataclasses.replace(options, **{key: checks[key].check(value) for key, value in given.items()})
