"""The processes of one run, usually one a host: they join, compare what must be equal, and agree.

A process that has not joined others is alone, and everything here is then free and immediate. All processes
of a run must call each function that says so, in the same order.
"""

import atexit
import contextlib
import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from dpanet_jax.errors import DPANetError, UsageError
from dpanet_jax.version import provenance

T = TypeVar("T")

# Seconds until a process that says nothing is taken for dead, and that one waits for the others at its end.
_HEARTBEAT = 30
_SHUTDOWN = 60

_GO_ON = "start the same command on all hosts: it goes on from the last checkpoint"


class HostError(DPANetError, RuntimeError):
    """Hosts cannot work together: one is missing, has failed or is another; the text names it."""


class HostsDiffer(HostError, UsageError):
    """Something that must be equal on all hosts is not; the text names the host and what differs."""

    agreed = True


def join(coordinator: str, num_processes: int, process_id: int, timeout: int = 300) -> None:
    """Joins the processes of a run; returns when all have come. To be called before JAX is used.

    coordinator: HOST:PORT of process 0, where it listens and all others find it. process_id: 0 to
    num_processes - 1, another one on each. timeout: seconds to wait for the others.

    Raises UsageError for arguments that cannot be. Where not all come in time, JAX ends the process: a last
    line on stderr says so, and its exit status is 1. So it does later on, when a process is lost.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UsageError(f"--coordinator={coordinator}: must be HOST:PORT, such as 10.0.0.1:8476")
    if num_processes < 1:
        raise UsageError(f"--num_processes={num_processes}: must be at least 1")
    if not 0 <= process_id < num_processes:
        raise UsageError(f"--process_id={process_id}: must lie in 0 to {num_processes - 1}")
    missing = (
        f"not all of the {num_processes} hosts came to {coordinator} within {timeout} s: start the same "
        f"command on each, --process_id from 0 to {num_processes - 1}, and see that the port can be reached"
    )
    _initialize(
        missing,
        coordinator_address=coordinator,
        num_processes=num_processes,
        process_id=process_id,
        initialization_timeout=timeout,
        cluster_detection_method="deactivate",
    )


def join_cluster(timeout: int = 300) -> None:
    """Joins the processes of a run where JAX finds them itself: Cloud TPU, SLURM, GKE, Open MPI.

    Raises UsageError where there is no such cluster; else as `join`.
    """
    _initialize(
        f"not all hosts of the cluster came within {timeout} s: start the same command on each",
        initialization_timeout=timeout,
    )


def _initialize(missing: str, **arguments: Any) -> None:
    import jax

    # JAX's own service would take SIGTERM away from the process; `training.interruption` agrees on signals.
    jax.config.update("jax_enable_preemption_service", False)
    with _last_words(missing):
        try:
            jax.distributed.initialize(
                heartbeat_timeout_seconds=_HEARTBEAT, shutdown_timeout_seconds=_SHUTDOWN, **arguments
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise UsageError(
                f"the hosts cannot be joined ({' '.join(str(error).split())}): give --coordinator, "
                "--num_processes and --process_id on each, or start it in a cluster that JAX knows"
            ) from error
    if jax.process_count() > 1:
        _say_when_one_is_lost()
        _require_even_devices()


def _require_even_devices() -> None:
    """Raises HostsDiffer where one process has more devices than another."""
    import jax

    counts = [0] * jax.process_count()
    for device in jax.devices():
        counts[device.process_index] += 1
    for host, number in enumerate(counts):
        if number != counts[0]:
            raise HostsDiffer(
                f"host {host} has {number} devices, and host 0 has {counts[0]}: all must have as many"
            )


def count() -> int:
    """How many processes have joined; 1 where this one is alone."""
    jax = sys.modules.get("jax")
    return int(jax.process_count()) if jax and jax.distributed.is_initialized() else 1


def index() -> int:
    """Which of them this one is. Process 0 is the one that writes, prints and draws."""
    jax = sys.modules.get("jax")
    return int(jax.process_index()) if jax and jax.distributed.is_initialized() else 0


def gather(content: bytes) -> list[bytes]:
    """What each process gives, by its number. All must call it. Raises HostError where one is gone."""
    if count() == 1:
        return [content]
    from jax.experimental.multihost_utils import process_allgather

    with lost_in_one_line():
        lengths = np.asarray(process_allgather(np.int32(len(content)))).reshape(-1)
        padded = np.frombuffer(content.ljust(int(lengths.max()), b"\0"), np.uint8)
        rows = np.asarray(process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """The block succeeds on all processes or fails on all: what one raises ends the others too.

    All must enter it, and nothing in it may wait for another process. Those in which it went well raise
    HostError with the words of the first that failed.
    """
    failure: BaseException | None = None
    try:
        yield
    except Exception as error:
        if count() == 1:
            raise
        failure = error
    if count() == 1:
        return
    words = gather(b"" if failure is None else (str(failure) or type(failure).__name__).encode())
    if isinstance(failure, DPANetError):
        failure.agreed = True
    if failure is not None:
        raise failure
    for host, text in enumerate(words):
        if text:
            elsewhere = HostError(f"stopped, because host {host} cannot go on: {text.decode()}")
            elsewhere.agreed = True
            raise elsewhere


def of_main(compute: Callable[[], T]) -> T:
    """What `compute` returns on process 0, on all; JSON must be able to hold it. All must call it.

    For what is read from the disk and decides what is done: two hosts may see a file at different times.
    """
    if count() == 1:
        return compute()
    content = b""
    with agreed():
        if index() == 0:
            content = json.dumps(compute()).encode()
    result: T = json.loads(gather(content)[0])
    return result


def code() -> dict[str, str | None]:
    """Which code this process runs, for `require_equal`."""
    import jax

    ours = {f"dpanet_jax's {name}": value for name, value in provenance().items()}
    return ours | {"JAX's version": jax.__version__}


def require_equal(values: Mapping[str, Any], advice: str) -> None:
    """Raises HostsDiffer where a value is not process 0's: names the first such host and key.

    JSON must be able to hold the values; `advice` says what to do. All must call it.
    """
    if count() == 1:
        return
    of_hosts = [json.loads(content) for content in gather(json.dumps(values).encode())]
    for host, its in enumerate(of_hosts):
        for key in sorted(of_hosts[0].keys() | its.keys()):
            here, there = (value.get(key, "absent") for value in (of_hosts[0], its))
            if here != there:
                raise HostsDiffer(f"{key} is {there!r} on host {host}, and {here!r} on host 0: {advice}")


class Vote:
    """The largest of the numbers that the processes give, known one call later.

    One call later, so that no process waits for a device that is still at work. All must make as many calls,
    in the same places between other programs that several hosts run.
    """

    def __init__(self) -> None:
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.asarray(jax.devices()), ("device",))
        self._split = NamedSharding(mesh, PartitionSpec("device"))
        self._largest = jax.jit(
            lambda numbers: numbers.max(), out_shardings=NamedSharding(mesh, PartitionSpec())
        )
        self._pending: Any = None

    def __call__(self, number: int) -> int:
        """Gives this process's number, an int32 from 0; returns the vote of the call before, 0 at first."""
        import jax

        devices = self._split.mesh.size
        numbers = jax.make_array_from_callback(
            (devices,), self._split, lambda _: np.full((1,), number, np.int32)
        )
        last, self._pending = self._pending, self._largest(numbers)
        return 0 if last is None else int(last)


@contextlib.contextmanager
def lost_in_one_line() -> Iterator[None]:
    """What the collectives raise of a process that is gone becomes a HostError."""
    try:
        yield
    except HostError:
        raise  # It is one line already.
    except Exception as error:
        # Gloo's and NCCL's words; the coordination service's own are followed by the end of the process.
        if count() > 1 and re.search(r"Gloo|NCCL|[Cc]onnection (closed|reset)|coordination", str(error)):
            words = " ".join(str(error).split())[:200]
            raise HostError(f"another host is lost ({words}): {_GO_ON}") from error
        raise


def leave(status: int) -> None:
    """Ends this process at once with `status`, so that the others notice; for a failure of this one alone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handlers: list[Any] = []  # Kept: the operating system calls them.


def _say_when_one_is_lost() -> None:
    """JAX's service ends this process when it misses another: a last line then says what to do."""
    words = _last_words(f"another host of this run has died or cannot be reached: {_GO_ON}")
    words.__enter__()
    atexit.register(words.__exit__, None, None, None)


@contextlib.contextmanager
def _last_words(text: str) -> Iterator[None]:
    """While it is open, a process that is aborted ends with a line on stderr and exit status 1.

    JAX's service aborts in C++, with a trace, and offers no other way to be heard.
    """
    line = f"dpanet_jax: {text}\n".encode()

    def say(number: int) -> None:
        os.write(2, line)
        os._exit(1)

    handler = _Handler(say)
    _handlers.append(handler)
    set_handler = ctypes.CDLL(None).signal
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        set_handler(signal.SIGABRT, before)
