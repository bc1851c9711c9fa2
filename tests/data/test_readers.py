"""How many threads and processes read on machines of other kinds."""

import pytest

from dpanet_jax.data.readers import Machine, Readers, choose, this_machine

# Eight accelerators, and a large host.
HOST = Machine(cores=96, devices=8, computes_on_cores=False, shared_memory=2**36, may_spawn=True)
LARGE, SMALL = 2048 * 1024, 480 * 360
BATCH = 8 * 768 * 768 * 4


@pytest.mark.parametrize(
    ("machine", "pixels", "expected"),
    [
        (HOST, LARGE, Readers(7, 12)),
        (HOST, SMALL, Readers(3, 24)),
        (HOST._replace(devices=1), LARGE, Readers(8, 2)),
        (HOST._replace(cores=8), LARGE, Readers(7, 0)),
        (HOST._replace(cores=4), SMALL, Readers(3, 0)),
        (HOST._replace(cores=1), SMALL, Readers(1, 0)),
        (HOST._replace(shared_memory=2**26), LARGE, Readers(95, 0)),
        (HOST._replace(may_spawn=False), LARGE, Readers(95, 0)),
        (HOST._replace(computes_on_cores=True), LARGE, Readers(4, 0)),
        (HOST._replace(computes_on_cores=True, cores=2), SMALL, Readers(2, 0)),
    ],
)
def test_the_choice(machine: Machine, pixels: int, expected: Readers) -> None:
    assert choose(machine, pixels, BATCH) == expected
    assert expected.threads * max(1, expected.workers) <= max(4, machine.cores - 1)


def test_batches_that_wait_stay_below_8_gib() -> None:
    batch = 2**30
    threads, workers = choose(HOST, LARGE, batch)
    assert (threads, workers) == (2, 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [((5, -1), (5, 0)), ((5, 0), (5, 0)), ((0, 3), (1, 3)), ((2, 3), (2, 3)), ((0, 0), (95, 0))],
)
def test_what_is_given_is_taken(given: tuple[int, int], expected: tuple[int, int]) -> None:
    assert choose(HOST, LARGE, BATCH, *given) == expected


def test_this_machine() -> None:
    machine = this_machine(8, True)
    assert machine.cores >= 1 and machine.devices == 8 and machine.computes_on_cores
    assert choose(machine, SMALL, BATCH).workers == 0
