"""Leases: of two that want one only one has it, and a dead holder's is taken over.

TensorStore's store in memory stands for a bucket: it has the same conditional writes.
"""

import threading
import time

import pytest
import tensorstore

from dpanet_jax import leases
from dpanet_jax.leases import Held, Lease
from dpanet_jax.remote import Remote, RemoteError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(leases, "DEAD_AFTER", 0.4)


@pytest.fixture
def store():
    return tensorstore.KvStore.open({"driver": "memory"}).result()


def lease(store, tell=lambda text: None):
    return Lease(Remote("gs://bucket/run"), tell, store=store)


def die(holder):
    """What a process's death does to its lease: nothing beats any more, and the object stays."""
    holder._ended.set()
    holder._thread.join()


def test_the_second_is_refused_while_the_first_lives(store):
    said = []
    with lease(store) as holder:
        with (
            pytest.raises(Held, match=r"^gs://bucket/run is in use by process \d+ on \S+$"),
            lease(store, said.append),
        ):
            pass
        assert len(said) == 1 and "gs://bucket/run was in use by process" in said[0]
        holder.require_held()
    assert store.list().result() == []
    with lease(store, said.append):
        pass
    assert len(said) == 1, "nobody waits for one that was let go of"


def test_a_dead_holders_is_taken_over_and_it_is_told(store):
    dead = lease(store).__enter__()
    die(dead)
    started = time.monotonic()
    with lease(store):
        assert time.monotonic() - started >= 0.4
        assert dead._write(dead._generation) == b"", "a holder that comes back does not write"
        dead._ended.clear()
        dead._beat()
        with pytest.raises(Held, match="in use by process"):
            dead.require_held()
        dead.__exit__()
        assert store.list().result() == [b".lock"], "nor does it let go of what is another's"


def test_of_many_that_find_a_dead_ones_only_one_has_it(store):
    die(lease(store).__enter__())
    outcomes, start = [], threading.Barrier(4)

    def take():
        start.wait()
        try:
            held = lease(store).__enter__()
            outcomes.append(held)
        except Held:
            outcomes.append(None)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (holder,) = [outcome for outcome in outcomes if outcome]
    assert len(outcomes) == 4
    holder.__exit__()


def test_an_answer_that_is_lost_does_not_lose_the_lease(store):
    """TensorStore tries again by itself, and its second try finds what the first has written."""

    class Twice:
        read = store.read

        def write(self, *arguments, **options):
            store.write(*arguments, **options).result()
            return store.write(*arguments, **options)

    with lease(Twice()) as holder:
        assert holder._write(holder._generation)


def test_a_store_that_is_away_for_a_while_is_no_reason_to_stop(store):
    class Away:
        def __init__(self):
            self.calls, self.is_away = 0, False

        def read(self, *arguments):
            return store.read(*arguments)

        def write(self, *arguments, **options):
            self.calls += 1
            if self.is_away:
                raise ValueError("UNAVAILABLE: no network")
            return store.write(*arguments, **options)

    away = Away()
    with lease(away) as holder:
        away.is_away, before = True, away.calls
        while away.calls < before + 3:
            time.sleep(0.01)
        holder.require_held()
        away.is_away = False
    with pytest.raises(RemoteError, match="^gs://bucket/run/.lock: cannot be read or written .UNAVAILABLE"):
        away.is_away = True
        lease(away).__enter__()


def test_in_a_bucket(bucket):
    with Lease(Remote(f"{bucket}/run"), lambda text: None):
        assert Remote(f"{bucket}/run/.lock").is_file()
        with pytest.raises(Held), Lease(Remote(f"{bucket}/run"), lambda text: None):
            pass
    assert not Remote(f"{bucket}/run").exists()
