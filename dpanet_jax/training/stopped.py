"""What is said of a run that cannot go on: why, what is safe on the disk, and what to do."""

import contextlib
from collections.abc import Iterator

from dpanet_jax.checkpoint import CheckpointError, Checkpoints
from dpanet_jax.errors import OutOfMemory, is_out_of_memory
from dpanet_jax.paths import RemoteError
from dpanet_jax.training.build import Parts
from dpanet_jax.training.errors import NotFinite, TrainingError
from dpanet_jax.training.workdir import Workdir


@contextlib.contextmanager
def in_one_line(parts: Parts, checkpoints: Checkpoints, folder: Workdir) -> Iterator[None]:
    """Numbers that are not finite, memory and disks that do not suffice: one line, as a TrainingError.

    Other errors are raised as they are. What is called safe is on the disk when it is said.
    """
    try:
        yield
    except NotFinite as error:
        stopped = TrainingError(f"{error}: stopped; {_safe(checkpoints, folder)}. {_lower_the_rate(folder)}")
        stopped.agreed = True  # Figures and state are the same on all hosts.
        raise stopped from error
    except OutOfMemory as error:
        raise TrainingError(f"{error}; {_safe(checkpoints, folder)}, {_go_on(folder)}") from error
    except (TrainingError, CheckpointError):
        raise
    except RemoteError as error:
        raise TrainingError(
            f"{error}: stopped; the same command goes on from the newest checkpoint in {folder.path}"
        ) from error
    except OSError as error:
        words = " ".join(str(error).split())
        raise TrainingError(f"{words}: stopped; {_safe(checkpoints, folder)}, {_go_on(folder)}") from error
    except Exception as error:
        if "Worker process was terminated" in str(error):  # Grain's words for a process that reads.
            raise TrainingError(
                "a process that reads the data has died, as for want of memory: "
                f"set config.data.num_workers lower, or to 0; {_safe(checkpoints, folder)}, {_go_on(folder)}"
            ) from error
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"the memory does not suffice for a training step: {_need_less_memory(parts, folder)}; "
            f"{_safe(checkpoints, folder)}"
        ) from error


def _safe(checkpoints: Checkpoints, folder: Workdir) -> str:
    with contextlib.suppress(CheckpointError):
        checkpoints.wait()
    latest = checkpoints.latest
    if latest is None:
        return f"there is no checkpoint yet in {folder.path}"
    return f"the checkpoint of step {latest} is intact in {folder.path}"


def _go_on(folder: Workdir) -> str:
    return "and the same command " + ("goes on from there" if folder.has_checkpoint else "begins anew")


def _lower_the_rate(folder: Workdir) -> str:
    advice = "config.optimizer.lr, or add config.optimizer.warmup_steps"
    if not folder.has_checkpoint:
        return f"Lower {advice}"
    return f"With another --workdir: lower {advice}"  # A run that goes on keeps what it learns by.


def _need_less_memory(parts: Parts, folder: Workdir) -> str:
    """What to change; only what a run that goes on may change where one does."""
    remat = parts.options.model.get("remat") is False
    free = "set config.model.remat=True" if remat else "use more devices, or such with more memory"
    size = "lower config.training.batch_size, or raise config.training.accumulate_steps"
    return f"{free}, or with another --workdir {size}" if folder.has_checkpoint else f"{size}, or {free}"
