"""A workdir of a PyTorch checkpoint, without training: the counterpart of the export."""

import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dpanet_jax import checkpoint, models, paths, version
from dpanet_jax import config as config_lib
from dpanet_jax.config import ConfigError, Sections
from dpanet_jax.data.classes import Classes, read_classes
from dpanet_jax.data.location import dataset_dir, is_prepared, prepare_command, read_metadata
from dpanet_jax.errors import UsageError
from dpanet_jax.interop import files
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.interop.errors import OtherClassesError, WeightsError
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.training.optimizer import make_optimizer
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.workdir import Workdir


def import_torch(
    config: ConfigDict,
    weights: str,
    workdir: paths.PathLike,
    classes: str | os.PathLike[str] | None = None,
) -> paths.AnyPath:
    """Makes `workdir` with a checkpoint of step 0 that holds the weights of a file; returns that checkpoint.

    weights: as config.model.pretrained, whose place it takes; of a whole network. classes: a classes.csv, for
    a data set that is not prepared here. The workdir is then as of a run with this config that has made no
    step.

    Raises ConfigError for a wrong config, UsageError where the workdir is not empty or there are no classes,
    and WeightsError where the file does not fit the network. Nothing is left then.
    """
    _check(config)
    config = config_lib.resolved(config)
    folder = _free_folder(workdir)
    options = config_lib.sections(config)
    names = _classes(options, classes)
    file = files.resolve(weights)
    state = _state(options, names, weights)
    provenance = {
        **version.provenance(),
        "imported": {
            "file": weights if paths.is_address(weights) else str(file),
            "sha256": _sha256(file),
        },
    }
    stored = config_lib.to_dict(config)
    # The batches that a run reads start with the first: there is no state of them yet.
    about = {"config": stored, "classes": names.to_dict(), "provenance": provenance, "data": {}}
    with paths.new_folder(folder, last=(*reversed(checkpoint.COMMITTED), "config.json")) as unfinished:
        with checkpoint.Checkpoints(unfinished) as checkpoints:
            checkpoints.save(state, about)
            checkpoints.wait()
        Workdir(unfinished).begin(stored, provenance)
    return checkpoint.folder_of(folder) / "0"


def require_classes(imported: dict[str, Any], classes: Classes) -> None:
    """Raises ConfigError where a data set has other classes than an imported checkpoint's `about` says."""
    ours = Classes.from_dict(imported["classes"])
    if ours.names != classes.names:
        raise ConfigError(
            f"the data set has the classes {', '.join(classes.names)}, and the imported weights are for "
            f"{', '.join(ours.names)}: import them anew, with --classes of the data set"
        )


def _check(config: ConfigDict) -> None:
    """`check_config`, but for the file that config.model.pretrained names: it is not read here."""
    config = config.copy_and_resolve_references()
    config.model.pretrained = ""
    config_lib.check_config(config)


def _free_folder(workdir: paths.PathLike) -> paths.AnyPath:
    folder = checkpoint.folder_of(workdir).parent
    paths.require_writable(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is there already and is not empty: give another --workdir")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: --workdir must be a folder")
    return folder


def _classes(options: Sections, path: str | os.PathLike[str] | None) -> Classes:
    """The classes of the prepared data set, or those of a file."""
    data = options.data
    given = None if path is None else read_classes(paths.local(path))
    prepared = dataset_dir(data.dataset, data.data_dir or None)
    if not is_prepared(prepared):
        if given is None:
            raise UsageError(
                f"the classes are not known: {data.dataset} is not prepared in {prepared}. Give "
                f"--classes=classes.csv, or run: {prepare_command(data.dataset, data.data_dir or None)}"
            )
        return given
    classes = Classes.from_dict(read_metadata(prepared)["classes"])
    if given is not None and given.names != classes.names:
        raise UsageError(
            f"--classes={path} has the classes {', '.join(given.names)}, and {data.dataset}, which is "
            f"prepared, {', '.join(classes.names)}: leave --classes out, or set another config.data.dataset"
        )
    return classes


def _state(options: Sections, classes: Classes, weights: str) -> TrainState:
    """The state before the first step, all of it from the file."""
    config_lib.check_class_weights(options.loss_options.class_weights, classes.names, options.data.dataset)
    model = models.build(len(classes), **options.model)
    variables = jax.device_get(init_variables(model, jax.random.key(options.run.seed)))
    missing = options.pretrained.pretrained_missing
    try:
        variables = torch_weights.load(weights, variables, missing, whole=True)
    except OtherClassesError as error:
        shown = ", ".join(classes.names[:8]) + (", …" if len(classes) > 8 else "")
        raise WeightsError(
            f"{weights}: is for {error.given} classes, and there are {len(classes)} here ({shown}): give the "
            "config of the data set that it was trained on, or --classes with as many"
        ) from error
    # Its numbers do not go into the state, which is the same for every schedule.
    optimizer = make_optimizer(lambda step: jnp.zeros(()), options.optimizer)
    state = TrainState.create(variables, optimizer, options.training)
    return jax.tree.map(np.asarray, state)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
