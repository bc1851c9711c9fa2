"""What a head says of its part in the loss."""

from typing import NamedTuple


class LossTerm(NamedTuple):
    """One term of the multi-loss: the cross entropy of `output`, times `weight` unless the config differs."""

    output: str
    weight: float
