"""A run's folder: whose it is, where the run came from, and what it leaves for people.

WORKDIR/config.json     the config, and under "provenance" the version and commit that began the run
WORKDIR/metrics.jsonl   a line for each window of steps and each evaluation; see `log`
WORKDIR/tensorboard/    the same as TensorBoard's events, with the pictures
WORKDIR/pictures/       what the network is fed, and predictions at each evaluation
WORKDIR/checkpoints/    see `dpanet_jax.checkpoint`
WORKDIR/damaged/        checkpoints that could not be read when the run went on
WORKDIR/.lock           while a run is under way; see `lock`, and `leases` for a folder of a bucket
"""

import json
import time
from pathlib import Path
from typing import Any

from dpanet_jax import checkpoint, hosts, paths
from dpanet_jax import config as config_lib
from dpanet_jax.leases import Held, Lease
from dpanet_jax.progress import message
from dpanet_jax.training.errors import WorkdirInUse
from dpanet_jax.training.lock import Lock, in_use
from dpanet_jax.training.log import RunLog

_PROVENANCE = "provenance"
_SECONDS = 20  # until what one host has written is seen by the others, on a slow network file system


class Workdir:
    """The folder of one run, at an absolute `path`; of several hosts, all must open it, and one writes in it.

    While it is open, no other run can open it: `lock.Lock` and `leases.Lease` say how; WorkdirInUse is
    raised. Raises UsageError for an address that no workdir can have, and ConfigError where there is a file,
    or another folder on one of the hosts.
    """

    def __init__(self, path: paths.PathLike) -> None:
        self.path = checkpoint.folder_of(path).parent
        self.writes = hosts.index() == 0
        self._lock = Lock(self.path) if isinstance(self.path, Path) else Lease(self.path, tell=message)
        if self.path.exists() and not self.path.is_dir():
            raise config_lib.ConfigError(f"{self.path} is a file: --workdir must be a folder")

    def __enter__(self) -> "Workdir":
        with hosts.agreed():
            if self.writes:
                try:
                    self._lock.__enter__()
                except Held as error:
                    raise WorkdirInUse(in_use(self.path, error.holder)) from error
        try:
            self._require_shared()
            if self.writes:
                for folder in (self.path, self.path / "pictures"):
                    paths.remove_unfinished(folder)  # Of a run that was killed.
        except BaseException:
            self.__exit__()
            raise
        return self

    def _require_shared(self) -> None:
        """Raises an error, on all hosts, where one of them has another folder than host 0."""
        lock = self._lock
        address = str(self.path) if isinstance(lock, Lease) else "a local path"
        hosts.require_equal({"--workdir": address}, "give all hosts the same")
        if isinstance(lock, Lease):
            return
        holder = hosts.of_main(lambda: lock.holder)
        with hosts.agreed():
            until = time.monotonic() + _SECONDS
            while not lock.is_held_by(holder):
                if time.monotonic() > until:
                    raise config_lib.ConfigError(
                        f"{self.path} is not the folder that host 0 writes to: --workdir must lie on a file "
                        "system that all hosts share"
                    )
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        if self.writes:
            self._lock.__exit__()

    @property
    def has_checkpoint(self) -> bool:
        """Whether a run goes on here, rather than starts from its beginning, as this host sees it."""
        return bool(checkpoint.steps_of(checkpoint.folder_of(self.path)))

    def config_of_run(self, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The config (`to_dict`) that a run has here, given what was asked for; and what changed, in words.

        A workdir without a checkpoint takes any. A run that goes on takes what is asked for, but what it was
        started from is what it was. Raises ConfigError where something differs that changes what is learned,
        and CheckpointError where there are checkpoints and none is whole.
        """
        about = checkpoint.newest_about(checkpoint.folder_of(self.path))
        if about is None:
            return config, []
        stored = about["config"]
        # Another version's keys are refused by its name.
        config_lib.from_dict(stored, checkpoint.written_by(about))
        differences = config_lib.differences(stored, config)
        if differences:
            raise config_lib.ConfigError(
                f"{self.path} holds a run with another config ({'; '.join(differences[:4])}"
                f"{'; …' if len(differences) > 4 else ''}): use another --workdir, or that config"
            )
        started = config_lib.with_start_of(stored, config)
        return started, config_lib.free_changes(stored, started)

    def begin(self, config: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Writes config.json of a run from its beginning; removes what one without a checkpoint left."""
        if not self.writes:
            return
        if (self.path / "config.json").exists():
            for name in ("tensorboard", "pictures"):
                paths.remove_folder(self.path / name)
            (self.path / "metrics.jsonl").unlink(missing_ok=True)
        self._write_config(config, provenance)

    def go_on(self, config: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Brings config.json up to date: what may change, may have. Who began the run stays."""
        if not self.writes:
            return
        try:
            stored = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
            began = stored.pop(_PROVENANCE, None)
        except (OSError, ValueError, AttributeError, TypeError):
            stored, began = None, provenance  # It is not there, or not whole.
        if stored != config:
            self._write_config(config, began)

    def _write_config(self, config: dict[str, Any], provenance: dict[str, Any] | None) -> None:
        content = config if provenance is None else {**config, _PROVENANCE: provenance}
        paths.write_text(self.path / "config.json", json.dumps(content, indent=1) + "\n")

    def open_log(self, step: int, evaluated: bool = True) -> RunLog:
        """The log of a run that has made `step` steps, and evaluated the last of them, or not."""
        return RunLog(self.path, step, self.writes, evaluated, self.require_held)

    def require_held(self) -> None:
        """Raises WorkdirInUse where another run has taken a workdir in a bucket over meanwhile."""
        if isinstance(self._lock, Lease):
            try:
                self._lock.require_held()
            except Held as error:
                raise WorkdirInUse(in_use(self.path, error.holder)) from error
