"""Flags and steps that several verbs have."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from absl import flags

from dpanet_jax.command_line import string_flag

if TYPE_CHECKING:
    from dpanet_jax.evaluation.trained import TrainedModel

DATA_DIR = "where data sets are prepared (none: $TFDS_DATA_DIR, or ~/tensorflow_datasets)"
_CHECKPOINT = "best, latest, or a step's number"
_BASE_SIZE = "long side that images are resized to before the network (0: their own); none: the run's own"
_PROTOCOL = "how an image is put through the network: whole, slide, multiscale; none: the run's own"


def model_flags(values: flags.FlagValues, words: str) -> None:
    """Defines the flags that choose a trained model; `words` say what is done with its run."""
    string_flag(values, "workdir", words)
    string_flag(values, "checkpoint", _CHECKPOINT, "best")


def protocol_flags(values: flags.FlagValues) -> None:
    """Defines the flags of how an image is put through the network."""
    string_flag(values, "protocol", _PROTOCOL)
    flags.DEFINE_integer("base_size", None, _BASE_SIZE, lower_bound=0, flag_values=values)


def trained(
    values: flags.FlagValues, base_size: int | None = None, protocol: str | None = None
) -> "TrainedModel":
    """The model that the flags choose. UsageError for a protocol that there is not; CheckpointError."""
    from dpanet_jax.evaluation import protocols
    from dpanet_jax.evaluation.trained import load_trained
    from dpanet_jax.options import choose

    if protocol is not None:
        choose("--protocol", protocol, protocols.PROTOCOLS)
    return load_trained(values.workdir, values.checkpoint, base_size, protocol)


def with_progress(unit: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A function that shows how far an iteration has come, in these units."""
    from dpanet_jax.progress import progress_bar

    return lambda items: progress_bar(items, unit=unit)
