"""The error of everything that is wrong with weights."""

from dpanet_jax.errors import DPANetError


class WeightsError(DPANetError, ValueError):
    """Weights cannot be had, or do not fit the model; the message says which and why, on one line."""


class OtherClassesError(WeightsError):
    """A file's weights fit but for the classifiers, which are for `given` classes and not `expected` ones."""

    def __init__(self, message: str, given: int, expected: int) -> None:
        super().__init__(message)
        self.given = given
        self.expected = expected
