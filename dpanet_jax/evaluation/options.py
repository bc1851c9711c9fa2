"""How a model is evaluated: the options of `config.evaluation`."""

import dataclasses
from typing import Annotated, Literal

from dpanet_jax.options import Option


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluation while training, and what `evaluate` and `predict` do unless told otherwise."""

    every_epochs: Annotated[int, Option("epochs between two evaluations", least=1, kind="evaluation")] = 1
    batch_size: Annotated[
        int, Option("images a batch, over all devices and hosts", least=1, kind="evaluation")
    ] = 8
    protocol: Annotated[
        Literal["whole"], Option("how an image is put through the network", kind="evaluation")
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
