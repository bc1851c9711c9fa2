"""The configuration: put together from the options that the rooms declare, and checked before any work.

A config file in `configs/` starts from `default_config()` and changes what its experiment changes.
"""

import dataclasses
import importlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from dpanet_jax import paths
from dpanet_jax.data.options import Data
from dpanet_jax.errors import UsageError
from dpanet_jax.evaluation.options import Evaluation
from dpanet_jax.interop.options import Pretrained
from dpanet_jax.options import Declared, Option, OptionError, declared, did_you_mean, read
from dpanet_jax.training.options import Checkpoint, Loss, Optimizer, Run, Sharding, Training
from dpanet_jax.version import __version__

# Whose options stand in each section of the config; "" is the config itself. Those of `model` and of
# `loss` are joined by what the networks declare.
_SECTIONS: dict[str, type] = {
    "": Run,
    "data": Data,
    "model": Pretrained,
    "loss": Loss,
    "optimizer": Optimizer,
    "training": Training,
    "sharding": Sharding,
    "evaluation": Evaluation,
    "checkpoint": Checkpoint,
}


class ConfigError(OptionError):
    """A key or value of the config is wrong; the message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Sections:
    """A config's values as the rooms take them, each checked."""

    run: Run
    data: Data
    model: dict[str, Any]  # arguments of `models.build`: the options that the chosen network uses
    pretrained: Pretrained
    loss: dict[str, float]  # the weight of every term that the chosen network has
    loss_options: Loss
    optimizer: Optimizer
    training: Training
    sharding: Sharding
    evaluation: Evaluation
    checkpoint: Checkpoint


def default_config() -> ConfigDict:
    """Every key there is, with its default; networks that are registered before it are in it too."""
    config = ConfigDict()
    for key, option in all_keys().items():
        section, _, name = key.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        (config[section] if section else config)[name] = option.default
    return config


def all_keys() -> dict[str, Declared]:
    """{"section.key": its declaration}, in the order of the sections."""
    from dpanet_jax import models  # Here, so that a list of verbs need not wait for JAX.

    terms = models.all_loss_terms()
    joined = {
        "model": models.all_options(),
        "loss": {term: _loss_weight(term, what.output, what.weight) for term, what in terms.items()},
    }
    return {
        f"{section}.{key}" if section else key: option
        for section, owner in _SECTIONS.items()
        for key, option in {**joined.get(section, {}), **declared(owner)}.items()
    }


def _loss_weight(term: str, output: str, weight: float) -> Declared:
    words = f"weight of the cross entropy of the output `{output}`; 0 switches it off"
    return Declared(term, term, Loss, float, (), weight, Option(words, least=0))


def flatten(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """A nested config as one dictionary {"a.b": value}; tuples stay values."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat.update({f"{key}.{k}": v for k, v in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def check_config(config: ConfigDict, *, starts: bool = True) -> None:
    """Raises ConfigError for whatever is wrong with a config that a run is to start with.

    That is an unknown or missing key, a value that its option may not have, one that no chosen module
    uses, and a file that is not there. With `starts` False the file of pretrained weights need not be
    there: a run that goes on does not read it. Imports the modules of `config.imports` first.
    """
    import_modules(config.get("imports", ()))
    given, known = flatten(config), all_keys()
    for key in given:
        if key not in known:
            raise ConfigError(f"config.{key} is not a key of the config{did_you_mean(key, known)}")
    # A network that was registered after the config was made has its defaults.
    joined = [f"{section}." for section in ("model", "loss") if section in config]
    missing = [key for key in known if key not in given and not key.startswith(tuple(joined))]
    if missing:
        raise ConfigError(f"config.{missing[0]} is missing: start from default_config()")
    values = sections(config)
    _check_network(given, values)
    _check_sharding(values)
    _check_freezing(values)
    if starts:
        check_pretrained(values.pretrained.pretrained)


def sections(config: ConfigDict) -> Sections:
    """The config's values for the rooms. Raises ConfigError for one that its option may not have.

    Options that the chosen network does not use are left out: `check_config` is what refuses them.
    """
    from dpanet_jax import models

    read_sections = {name: _read(name, owner, config) for name, owner in _SECTIONS.items()}
    try:
        options = models.check_options(_without(config.model, declared(Pretrained)))
        in_use = models.used_options(options)
        options = {key: value for key, value in options.items() if key in in_use}
        terms = models.build(1, **options).loss_terms()
    except OptionError as error:
        raise ConfigError(f"config.model.{error}") from error
    known = all_keys()
    weights = {
        term: _checked(known[f"loss.{term}"], config.loss.get(term, what.weight), f"config.loss.{term}")
        for term, what in models.all_loss_terms().items()
    }
    return Sections(
        run=read_sections[""],
        data=read_sections["data"],
        model=options,
        pretrained=read_sections["model"],
        loss_options=read_sections["loss"],
        loss={term: weights[term] for term in terms},
        optimizer=read_sections["optimizer"],
        training=read_sections["training"],
        sharding=read_sections["sharding"],
        evaluation=read_sections["evaluation"],
        checkpoint=read_sections["checkpoint"],
    )


def _read(section: str, owner: type, config: ConfigDict) -> Any:
    values = config[section] if section else config
    own = {key: values[key] for key in declared(owner) if key in values}
    try:
        return read(owner, own, f"config.{section}." if section else "config.")
    except OptionError as error:
        raise ConfigError(str(error)) from error


def _checked(option: Declared, value: Any, name: str) -> Any:
    try:
        return option.check(value, name)
    except OptionError as error:
        raise ConfigError(str(error)) from error


def _without(values: ConfigDict, others: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in set(others)}


def _check_network(given: Mapping[str, Any], values: Sections) -> None:
    """Raises ConfigError where an option or a loss weight has no effect, or the loss is always 0."""
    from dpanet_jax import models

    known = models.all_options()
    try:
        models.check_used({key: given[f"model.{key}"] for key in known if f"model.{key}" in given})
    except OptionError as error:
        raise ConfigError(f"config.model.{error}") from error
    for term, what in models.all_loss_terms().items():
        value = given.get(f"loss.{term}", what.weight)
        if term not in values.loss and value != what.weight:
            raise ConfigError(
                f"config.loss.{term}={value!r}: the chosen network has no such term of the loss; "
                f"leave it at its default, {what.weight:g}"
            )
    if not any(values.loss.values()):
        raise ConfigError(
            f"config.loss: the weights of {', '.join(values.loss)} are all 0, so nothing would be learned"
        )
    for key in ("name", "backbone"):
        option = known[key]
        cls = option.option.selects.get(values.model.get(key, ""))
        home = cls.__module__ if cls else "dpanet_jax"
        if home.partition(".")[0] != "dpanet_jax" and home not in values.run.imports:
            raise ConfigError(
                f"config.model.{key}={values.model[key]} is registered by the module {home}: name it in "
                f"config.imports, so that what reads the run's checkpoints imports it too"
            )


def _check_sharding(values: Sections) -> None:
    """Raises ConfigError where what only jit can split is to be split under pmap."""
    unlike = {
        key: value
        for key, value in dataclasses.asdict(values.sharding).items()
        if value != getattr(Sharding, key)
    }
    if values.run.parallelism != "jit" and unlike:
        key, value = next(iter(unlike.items()))
        raise ConfigError(
            f"config.sharding.{key}={value!r} needs config.parallelism='jit', not "
            f"{values.run.parallelism!r}: leave one of the two at its default"
        )


def _check_freezing(values: Sections) -> None:
    """Raises ConfigError where there is no backbone to freeze, or nothing that has rates by layer."""
    from dpanet_jax import models

    freeze, name = values.training.freeze, values.model.get("name")
    if freeze == "backbone" and values.optimizer.layer_decay != 1:
        raise ConfigError(
            f"config.optimizer.layer_decay={values.optimizer.layer_decay!r}: with config.training.freeze="
            "'backbone' only heads are trained, whose rate it does not change; leave it at its default, 1"
        )
    if freeze != "nothing" and name in models.NETWORKS:
        raise ConfigError(
            f"config.training.freeze={freeze!r}: {name} is a whole network without a backbone; leave it at "
            "its default, 'nothing'"
        )


def check_frozen_weights(values: Sections) -> None:
    """Raises ConfigError where a run is to begin with weights that are frozen, and that nobody trained."""
    freeze = values.training.freeze
    if freeze != "nothing" and not values.pretrained.pretrained:
        raise ConfigError(
            f"config.training.freeze={freeze!r}: the backbone's weights are random, and would stay so; name "
            "trained ones in config.model.pretrained, or make the workdir by import-torch"
        )


def check_pretrained(pretrained: str) -> None:
    """Raises ConfigError where the file of weights to start from is not there; "" is none."""
    if not pretrained or pretrained.startswith("hf://"):
        return
    try:
        there = paths.anywhere(pretrained).is_file()
    except UsageError as error:
        raise ConfigError(f"config.model.pretrained={error}") from error
    if not there:
        raise ConfigError(f"config.model.pretrained={pretrained}: there is no such file")


def import_modules(names: Iterable[str]) -> None:
    """Imports modules that register networks or data sets. ConfigError where one cannot be imported."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"config.imports: the module {name} cannot be imported ({error}); "
                "its folder must be on PYTHONPATH"
            ) from error


def check_class_weights(weights: tuple[float, ...], names: Iterable[str], dataset: str) -> None:
    """Raises ConfigError where the loss's class weights are not one for each of the data set's classes."""
    names = tuple(names)
    if weights and len(weights) != len(names):
        raise ConfigError(
            f"config.loss.class_weights has {len(weights)} values; {dataset} has {len(names)} "
            f"classes: {', '.join(names)}"
        )


def resolved(config: ConfigDict) -> ConfigDict:
    """A copy whose local paths are absolute, so that a run means the same from every folder."""
    config = config.copy_and_resolve_references()
    if config.data.data_dir:
        config.data.data_dir = str(paths.anywhere(config.data.data_dir))
    return config


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """The config as plain nested dictionaries that JSON can hold (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def from_dict(values: Mapping[str, Any], written_by: str = "another version") -> ConfigDict:
    """The inverse of `to_dict`, on the defaults; `written_by` is the version that stored it.

    Imports the modules of the stored `imports` first. Raises ConfigError for a key that this version does
    not know, or a value that it cannot have.
    """
    import_modules(values.get("imports", ()))
    config = default_config()
    known = all_keys()
    for key, value in flatten(values).items():
        if key not in known:
            raise ConfigError(
                f"the stored config has the key {key}, which dpanet_jax {__version__} does not know: it was "
                f"written by {written_by}; use that version"
            )
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = _checked(known[key], value, f"stored config, {key}")
    return config


def keys_of(kind: str) -> list[str]:
    """The keys of one kind of `options.KINDS`, in the order of the sections."""
    return [key for key, option in all_keys().items() if option.option.kind == kind]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What keeps a run with config `old` from going on with `new`: "key: old value, now new value".

    Both are of `to_dict`. What `old` does not say had its default. Only keys that change what is learned
    count, and of these not the options that neither network uses.
    """
    return _changes(old, new, free=False)


def with_start_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` (of `to_dict`) with the values that `old` has of the keys that count at the start only."""
    joined = {**new}
    for key in keys_of("start"):
        section, _, name = key.rpartition(".")
        if name in old.get(section, {}):
            joined[section] = {**joined[section], name: old[section][name]}
    return joined


def free_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs although a run may go on with it, in the form of `differences`."""
    return _changes(old, new, free=True)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], free: bool) -> list[str]:
    from dpanet_jax import models

    defaults = flatten(to_dict(default_config()))
    before, now = ({**defaults, **flatten(values)} for values in (old, new))
    options = models.all_options()
    in_use = {f"model.{key}" for values in (old, new) for key in models.used_options(values["model"])}
    unused = {f"model.{key}" for key in options} - in_use
    learned = set(keys_of("learned")) | (now.keys() - all_keys().keys())
    return [
        f"{key}: {before.get(key, 'absent')!r}, now {now.get(key, 'absent')!r}"
        for key in sorted(before.keys() | now.keys())
        if key not in unused and (key not in learned) == free and before.get(key) != now.get(key)
    ]
