"""The error of everything that is wrong with weights."""

from dpanet_jax.errors import DPANetError


class WeightsError(DPANetError, ValueError):
    """Weights cannot be had, or do not fit the model; the message says which and why, on one line."""
