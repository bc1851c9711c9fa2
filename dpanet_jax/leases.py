"""Who may write in a folder of a bucket: one process, for as long as it lives.

A store has no locks that a process's death frees. So the holder of a lease writes its object anew every
`BEAT` seconds; whoever finds one that stays as it is for `DEAD_AFTER` seconds takes it over. All writes go by
the generation of the object that was seen before, so that of two only one succeeds. No clock is compared
with another's.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from dpanet_jax.errors import DPANetError
from dpanet_jax.remote import Remote, RemoteError

BEAT = 20.0
DEAD_AFTER = 3 * BEAT
_TIMEOUT = 60.0  # TensorStore itself tries for many minutes.
_NAME = ".lock"


class Held(DPANetError, BlockingIOError):
    """Another process holds the lease, or has taken it over; `holder` says which."""

    def __init__(self, folder: object, holder: str) -> None:
        super().__init__(f"{folder} is in use by {holder}")
        self.holder = holder


class Lease:
    """Holds FOLDER/.lock, an object, while it is open. `tell` is called with a line where it must wait.

    Raises Held where another process holds it, and RemoteError.
    """

    def __init__(self, folder: Remote, tell: Callable[[str], Any] = print, *, store: Any = None) -> None:
        self._folder, self._tell = folder, tell
        self._store = store  # a TensorStore KvStore of the folder
        self._generation = b""
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        if self._store is None:
            self._folder.exists()  # Says at once, and in words, where the bucket cannot be reached.
            self._store = _open(self._folder)
        before = self._until_free()
        self._generation = self._write(before)
        if not self._generation:
            raise Held(self._folder, self._holder())
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._ended.set()
        self._thread.join()
        if self._lost is None:
            with contextlib.suppress(RemoteError):  # It is then taken for dead, as it is.
                self._call(self._store.write, _NAME, None, if_equal=self._generation)

    def require_held(self) -> None:
        """Raises Held where another process has taken the lease over, as after a minute without a network."""
        if self._lost is not None:
            raise Held(self._folder, self._lost)

    def _until_free(self) -> bytes:
        """The generation of the object as it is when nobody alive holds it, or of there being none."""
        found = self._call(self._store.read, _NAME)
        if found.state == "missing":
            return bytes(found.stamp.generation)
        holder = _in_words(found.value)
        self._tell(
            f"{self._folder} was in use by {holder}; whether that is alive is seen within {DEAD_AFTER:.0f} s"
        )
        until = time.monotonic() + DEAD_AFTER
        while time.monotonic() < until:
            time.sleep(BEAT / 10)
            seen = self._call(self._store.read, _NAME)
            if seen.state == "missing":
                return bytes(seen.stamp.generation)
            if seen.stamp.generation != found.stamp.generation:
                raise Held(self._folder, holder)
        return bytes(found.stamp.generation)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                generation = self._write(self._generation)
                if not generation:
                    self._lost = self._holder()
                    return
                self._generation = generation
            except RemoteError:
                continue  # A network that is away for a while is no reason to stop a run.

    def _write(self, before: bytes) -> bytes:
        """Writes the object over one of the generation `before`. The new one's; b"": it was of another."""
        content = f"{os.getpid()} {socket.gethostname()} {uuid.uuid4()}\n".encode()
        written = self._call(self._store.write, _NAME, content, if_equal=before)
        if not written.generation:
            found = self._call(self._store.read, _NAME)
            if found.value == content:  # Written, and the answer was lost: TensorStore has tried again.
                return bytes(found.stamp.generation)
        return bytes(written.generation)

    def _holder(self) -> str:
        return _in_words(self._call(self._store.read, _NAME).value)

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options).result(timeout=_TIMEOUT)
        except TimeoutError as error:
            raise RemoteError(f"{self._folder / _NAME}: the store does not answer") from error
        except (ValueError, OSError, RuntimeError) as error:
            words = " ".join(str(error).split())[:300]
            raise RemoteError(f"{self._folder / _NAME}: cannot be read or written ({words})") from error


def _open(folder: Remote) -> Any:
    import tensorstore

    return tensorstore.KvStore.open(f"{folder}/").result(timeout=_TIMEOUT)


def _in_words(content: bytes) -> str:
    pid, _, rest = content.decode("utf-8", "replace").strip().partition(" ")
    host = rest.partition(" ")[0]
    return f"process {pid} on {host}" if pid.isdecimal() and host else "another process"
