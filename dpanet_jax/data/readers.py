"""How many threads and processes read: chosen from the machine, where the user has not said it."""

import math
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from dpanet_jax import cores

# An accelerator computes a network of this kind for no more images than so many cores can read.
CORES_A_DEVICE = 16
# A CPU computes the network on the same cores.
BESIDE_A_CPU = 4
# Threads of one process that Python's lock does not hold up much: an image is decoded and scaled without the
# lock, and put into its batch with it, so that large images keep more threads busy.
THREADS_A_PROCESS, THREADS_A_PROCESS_OF_SMALL, _SMALL = 8, 4, 2**20
# Batches that a thread holds, read and being read, and those of a process on their way.
_HELD, _ON_THEIR_WAY = 3, 2
# Bytes that all batches which wait may take.
_MOST_BYTES = 2**33
_SHARED_MEMORY = Path("/dev/shm")


class Readers(NamedTuple):
    """workers: processes, 0 for none but this one. threads: of each of them."""

    threads: int
    workers: int


class Machine(NamedTuple):
    """What the choice goes by. shared_memory: bytes free for processes to hand batches over in."""

    cores: int
    devices: int  # of this process
    computes_on_cores: bool  # whether the devices are the CPU's own
    shared_memory: int
    may_spawn: bool


def this_machine(devices: int, computes_on_cores: bool) -> Machine:
    """The machine as it is; `devices` are those of this process."""
    shared = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else 0
    # A process that is spawned imports the program anew. A module that `python -m` runs is made for it, which
    # a user's own script may not be.
    return Machine(cores.usable(), devices, computes_on_cores, shared, bool(sys.modules["__main__"].__spec__))


def choose(
    machine: Machine, pixels: float, batch_bytes: int, num_threads: int = 0, num_workers: int = -1
) -> Readers:
    """Threads and processes for images of so many pixels and batches of so many bytes of this process.

    num_threads 0 and num_workers -1 leave the choice to the machine: beside a CPU up to BESIDE_A_CPU threads;
    else all cores but one, at most CORES_A_DEVICE for each device. They are threads of this process while
    these are no more than Python's lock lets work at once, and spread over processes beyond. What waits is
    kept below 8 GiB. A number that is given is taken as it is.
    """
    if num_threads or num_workers > 0:
        return Readers(num_threads or 1, max(0, num_workers))
    wanted = _wanted(machine, batch_bytes)
    if num_workers == 0 or machine.computes_on_cores or not machine.may_spawn:
        return Readers(wanted, 0)
    most = THREADS_A_PROCESS if pixels >= _SMALL else THREADS_A_PROCESS_OF_SMALL
    workers = math.ceil(wanted / most)
    if workers == 1 or machine.shared_memory < 2 * workers * _ON_THEIR_WAY * batch_bytes:
        return Readers(wanted, 0)
    return Readers(wanted // workers, workers)


def _wanted(machine: Machine, batch_bytes: int) -> int:
    if machine.computes_on_cores:
        return min(BESIDE_A_CPU, machine.cores)
    most = max(1, _MOST_BYTES // max(1, _HELD * batch_bytes))
    return max(1, min(machine.cores - 1, CORES_A_DEVICE * machine.devices, most))
