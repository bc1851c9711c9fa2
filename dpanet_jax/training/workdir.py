"""A run's folder: whose it is, where the run came from, and what it leaves for people.

WORKDIR/config.json     the config, and under "provenance" the version and commit that began the run
WORKDIR/metrics.jsonl   a line for each window of steps and each evaluation; see `log`
WORKDIR/tensorboard/    the same as TensorBoard's events, with the pictures
WORKDIR/pictures/       what the network is fed, and predictions at each evaluation
WORKDIR/checkpoints/    see `dpanet_jax.checkpoint`
"""

import json
import os
from typing import Any

from dpanet_jax import checkpoint, paths
from dpanet_jax import config as config_lib
from dpanet_jax.progress import is_main_process
from dpanet_jax.training.log import RunLog

_PROVENANCE = "provenance"


class Workdir:
    """The folder of one run, at an absolute `path`; only one of several processes writes in it.

    Raises UsageError for an address that is no local path, and ConfigError where there is a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = paths.local(path)
        self.writes = is_main_process()
        if self.path.exists() and not self.path.is_dir():
            raise config_lib.ConfigError(f"{self.path} is a file: --workdir must be a folder")

    @property
    def has_checkpoint(self) -> bool:
        """Whether a run goes on here, rather than starts from its beginning."""
        folder = checkpoint.folder_of(self.path)
        return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())

    def require_run_of(self, config: dict[str, Any]) -> None:
        """Raises ConfigError where the folder belongs to a run with another config than this (`to_dict`)."""
        path = self.path / "config.json"
        if not path.exists():
            if checkpoint.folder_of(self.path).exists():
                raise config_lib.ConfigError(
                    f"{self.path} has checkpoints but no config.json: use another --workdir"
                )
            return
        try:
            stored = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise config_lib.ConfigError(f"{path} is not readable JSON ({error})") from error
        written_by = checkpoint.written_by(stored)
        stored.pop(_PROVENANCE, None)
        config_lib.from_dict(stored, written_by)  # Refuses the keys of another version by its name.
        differences = config_lib.differences(stored, config)
        if differences:
            raise config_lib.ConfigError(
                f"{self.path} holds a run with another config ({'; '.join(differences[:4])}"
                f"{'; …' if len(differences) > 4 else ''}): use another --workdir, or that config"
            )

    def write_config(self, config: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Writes config.json where there is none: a run keeps the one that it began with."""
        path = self.path / "config.json"
        if self.writes and not path.exists():
            paths.write_text(path, json.dumps({**config, _PROVENANCE: provenance}, indent=1) + "\n")

    def open_log(self, step: int) -> RunLog:
        """The log of a run that has made `step` steps."""
        return RunLog(self.path, step, self.writes)
