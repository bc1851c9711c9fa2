"""The log of a run whose workdir is in a bucket: written to a temporary folder, and uploaded from there.

A store's objects cannot be appended to, so a file that has grown is uploaded whole, in place of what was
there.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dpanet_jax.paths import Remote

_SECONDS = 30.0


class LogUpload:
    """`folder`: a local folder that stands for `workdir`, and holds its metrics.jsonl where it has one.

    `may_write` is called before each upload, and raises where the workdir is another run's by now.
    """

    def __init__(self, workdir: Remote, may_write: Callable[[], object]) -> None:
        self._workdir, self._may_write = workdir, may_write
        self._temporary = tempfile.TemporaryDirectory(prefix="dpanet_jax_log_")
        self.folder = Path(self._temporary.name)
        self._uploaded: dict[Path, int] = {}  # sizes: these files only grow
        log = workdir / "metrics.jsonl"
        if log.exists():
            log.download(self.folder / log.name)
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether some time has passed since the last upload."""
        return time.monotonic() - self._last > _SECONDS

    def upload(self) -> None:
        """Uploads the files that have changed."""
        self._may_write()
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            size = path.stat().st_size
            if self._uploaded.get(path) != size:
                (self._workdir / path.relative_to(self.folder).as_posix()).upload(path)
                self._uploaded[path] = size
        self._last = time.monotonic()

    def size_of_newest(self, folder: str) -> int:
        """Bytes of the file of a folder that was written last."""
        files = (self.folder / folder).iterdir()
        return max(files, key=lambda path: path.stat().st_mtime_ns).stat().st_size

    def close(self) -> None:
        """Removes the local folder."""
        self._temporary.cleanup()
