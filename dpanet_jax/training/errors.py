"""What stops a run."""

from dpanet_jax.errors import DPANetError


class TrainingError(DPANetError, RuntimeError):
    """The run cannot go on; the text says why, and what is safe on the disk."""


class NotFinite(TrainingError):
    """A figure of a step, or its state, is infinite or not a number; the text names which, and the step."""


class Interrupted(TrainingError):
    """A signal (Ctrl-C, a scheduler's SIGTERM, a terminal that closed) stopped the run after a checkpoint."""

    agreed = True


class WorkdirInUse(TrainingError):
    """Another run holds the workdir; the text says which, where that is known."""
