"""The error of everything that is wrong with weights."""

from dpanet_jax.errors import DPANetError


class WeightsError(DPANetError, ValueError):
    """Weights cannot be had, or do not fit the model; the message says which and why, on one line."""


class MisfitError(WeightsError):
    """Some of a file's weights do not fit; `patterns` are of the names that may be let differ, if any."""

    def __init__(self, message: str, patterns: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.patterns = patterns


class OtherClassesError(MisfitError):
    """A file's weights fit but for the classifiers, which are for `given` classes and not `expected` ones."""

    def __init__(self, message: str, patterns: tuple[str, ...], given: int, expected: int) -> None:
        super().__init__(message, patterns)
        self.given = given
        self.expected = expected
