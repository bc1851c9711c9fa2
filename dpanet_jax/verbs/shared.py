"""Flags and steps that several verbs have."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from absl import flags

from dpanet_jax.command_line import string_flag
from dpanet_jax.errors import UsageError

if TYPE_CHECKING:
    from dpanet_jax.evaluation.trained import TrainedModel

DATA_DIR = "where data sets are prepared (none: $TFDS_DATA_DIR, or ~/tensorflow_datasets)"
_CHECKPOINT = "best, latest, or a step's number"
_BASE_SIZE = "long side that images are resized to before the network (0: their own); none: the run's own"
_PROTOCOL = (
    "how an image is put through the network: whole, slide, multiscale, center_crop; none: the run's own"
)
_WINDOW = "height,width of the windows of slide and multiscale, and of the centre crop; none: the run's own"
_WINDOW_BATCH = "windows or centre crops that each device computes at a time; none: the run's own"


def model_flags(values: flags.FlagValues, words: str) -> None:
    """Defines the flags that choose a trained model; `words` say what is done with its run."""
    string_flag(values, "workdir", words)
    string_flag(values, "checkpoint", _CHECKPOINT, "best")


def protocol_flags(values: flags.FlagValues) -> None:
    """Defines the flags of how an image is put through the network."""
    string_flag(values, "protocol", _PROTOCOL)
    flags.DEFINE_integer("base_size", None, _BASE_SIZE, lower_bound=0, flag_values=values)
    flags.DEFINE_list("window", None, _WINDOW, flag_values=values)
    flags.DEFINE_integer("window_batch", None, _WINDOW_BATCH, lower_bound=1, flag_values=values)


def threads_flag(values: flags.FlagValues, none: str) -> None:
    """Defines --num_threads; `none` says what 0 is."""
    flags.DEFINE_integer(
        "num_threads", 0, f"threads that read images; {none}", lower_bound=0, flag_values=values
    )


def trained(values: flags.FlagValues) -> "TrainedModel":
    """The model that `model_flags` choose. CheckpointError where there is none to load."""
    from dpanet_jax.evaluation.trained import load_trained

    return load_trained(values.workdir, values.checkpoint)


def trained_for(values: flags.FlagValues) -> "TrainedModel":
    """As `trained`, by the protocol that `protocol_flags` choose. UsageError for one that cannot be."""
    from dpanet_jax.evaluation import protocols
    from dpanet_jax.evaluation.trained import load_trained
    from dpanet_jax.options import choose

    if values.protocol is not None:
        choose("--protocol", values.protocol, protocols.PROTOCOLS)
    try:
        window = None if values.window is None else tuple(int(length) for length in values.window)
    except ValueError as error:
        raise UsageError(f"--window={','.join(values.window)}: must be HEIGHT,WIDTH") from error
    return load_trained(
        values.workdir, values.checkpoint, values.base_size, values.protocol, window, values.window_batch
    )


def with_progress(unit: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A function that shows how far an iteration has come, in these units."""
    from dpanet_jax.progress import progress_bar

    return lambda items: progress_bar(items, unit=unit)
