"""What several hosts exchange, with the exchange itself played; real processes are in test_several_hosts."""

import json
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest

from dpanet_jax import hosts
from dpanet_jax.errors import DPANetError, UsageError
from dpanet_jax.hosts import HostError, HostsDiffer


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Plays hosts after this one, host 0 unless `index` says else: what each gives, in the order of calls."""

    def play(*given: list[bytes], index: int = 0) -> None:
        calls = iter(given)
        monkeypatch.setattr(hosts, "count", lambda: 1 + len(given[0]))
        monkeypatch.setattr(hosts, "index", lambda: index)

        def gather(content: bytes) -> list[bytes]:
            row = list(next(calls))
            row.insert(index, content)
            return row

        monkeypatch.setattr(hosts, "gather", gather)

    return play


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("10.0.0.1", 2, 0), "--coordinator=10.0.0.1: must be HOST:PORT"),
        ((":80", 2, 0), "must be HOST:PORT"),
        (("host:http", 2, 0), "must be HOST:PORT"),
        (("host:65536", 2, 0), "must be HOST:PORT"),
        (("host:80", 0, 0), "--num_processes=0: must be at least 1"),
        (("host:80", 2, 2), "--process_id=2: must lie in 0 to 1"),
        (("host:80", 2, -1), "--process_id=-1: must lie in 0 to 1"),
    ],
)
def test_what_cannot_be_joined_is_refused(arguments: tuple[str, int, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        hosts.join(*arguments)


def test_joining_after_jax_was_used_says_so() -> None:
    jax.devices()
    with pytest.raises(UsageError, match="the hosts cannot be joined .*before any JAX calls"):
        hosts.join("127.0.0.1:1", 1, 0)


def test_alone_everything_is_free() -> None:
    assert (hosts.count(), hosts.index()) == (1, 0)
    assert hosts.gather(b"mine") == [b"mine"]
    unserializable = object()
    assert hosts.of_main(lambda: unserializable) is unserializable
    hosts.require_equal({"a": 1}, "")
    with pytest.raises(KeyError), hosts.agreed():
        raise KeyError("as it is")


def test_texts_of_any_length_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that JAX's gathering of equal shapes would bring, cut again to what each host gave."""
    texts = [b"", b"a", "größer\0".encode()]
    monkeypatch.setattr(hosts, "count", lambda: len(texts))
    from jax.experimental import multihost_utils

    def process_allgather(mine: np.ndarray) -> np.ndarray:
        if np.ndim(mine) == 0:
            return np.array([len(text) for text in texts])
        assert len(mine) == max(map(len, texts))
        return np.stack([np.frombuffer(text.ljust(len(mine), b"\0"), np.uint8) for text in texts])

    monkeypatch.setattr(multihost_utils, "process_allgather", process_allgather)
    assert hosts.gather(texts[1]) == texts


def test_a_failure_elsewhere_stops_this_host_too(others: Callable[..., None]) -> None:
    others([b"", b"no such file"])
    with pytest.raises(HostError, match="stopped, because host 2 cannot go on: no such file") as caught:
        with hosts.agreed():
            pass
    assert caught.value.agreed


def test_a_failure_here_is_told_and_raised(others: Callable[..., None]) -> None:
    others([b""])
    with pytest.raises(UsageError, match="^wrong$") as caught, hosts.agreed():
        raise UsageError("wrong")
    assert caught.value.agreed
    others([b""])
    with pytest.raises(ZeroDivisionError), hosts.agreed():
        raise ZeroDivisionError  # A mistake is shown as one.


def test_the_main_process_decides(others: Callable[..., None]) -> None:
    others([b""], [b""])
    assert hosts.of_main(lambda: {"step": 3}) == {"step": 3}
    others([b""], [json.dumps([1, 2]).encode()], index=1)
    assert hosts.of_main(lambda: pytest.fail("only process 0 computes")) == [1, 2]
    others([b"cannot read"], index=1)
    with pytest.raises(HostError, match="host 0 cannot go on: cannot read"):
        hosts.of_main(lambda: None)


def test_the_host_and_the_key_that_differ_are_named(others: Callable[..., None]) -> None:
    same = {"config.seed": 1, "config.optimizer.lr": 0.1}
    others([json.dumps(same).encode()])
    hosts.require_equal(same, "")
    others([json.dumps(value).encode() for value in (same, same | {"config.optimizer.lr": 0.5})])
    with pytest.raises(
        HostsDiffer, match="^config.optimizer.lr is 0.5 on host 2, and 0.1 on host 0: start alike$"
    ) as caught:
        hosts.require_equal(same, "start alike")
    assert caught.value.agreed and caught.value.exit_status == 2
    others([b'{"config.seed": 1}'])
    with pytest.raises(HostsDiffer, match="config.optimizer.lr is 'absent' on host 1"):
        hosts.require_equal(same, "")


def test_a_vote_is_known_one_call_later() -> None:
    vote = hosts.Vote()
    assert [vote(number) for number in (0, 7, 3, 0)] == [0, 0, 7, 3]


def test_a_lost_host_is_one_line(others: Callable[..., None]) -> None:
    others([b""])
    words = "UNKNOWN: Gloo all-reduce failed: Connection closed by peer"
    with pytest.raises(HostError, match="another host is lost .*Connection closed.*start the same command"):
        with hosts.lost_in_one_line():
            raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="another matter"), hosts.lost_in_one_line():
        raise RuntimeError("another matter")


def test_a_host_that_is_lost_before_the_first_step_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from jax.experimental import multihost_utils

    def process_allgather(mine: np.ndarray) -> np.ndarray:
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")

    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", process_allgather)
    line = r"^another host is lost \(UNKNOWN: Gloo AllGather failed"
    with pytest.raises(HostError, match=line):
        hosts.require_equal({"a": 1}, "")
    with pytest.raises(HostError, match=line), hosts.lost_in_one_line():
        hosts.require_equal({"a": 1}, "")


def test_alone_nothing_is_taken_for_a_lost_host() -> None:
    with pytest.raises(RuntimeError) as caught, hosts.lost_in_one_line():
        raise RuntimeError("Connection closed by peer")
    assert not isinstance(caught.value, DPANetError)


def test_an_abort_ends_with_a_line_and_status_1() -> None:
    """From a thread that knows nothing of Python, as JAX's service does it."""
    code = (
        "import ctypes\n"
        "from dpanet_jax import hosts\n"
        "with hosts._last_words('first'):\n"
        "    pass\n"
        "with hosts._last_words('the others are gone'):\n"
        "    ctypes.CDLL(None).abort()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "dpanet_jax: the others are gone\n")
