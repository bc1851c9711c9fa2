"""What must be equal on all hosts before the first step: compared, so that a host that differs is named."""

from typing import Any

from ml_collections import ConfigDict

from dpanet_jax import checksums, hosts
from dpanet_jax import config as config_lib
from dpanet_jax.training.build import Parts

# What each host may have of its own: where its disks are, and how it reads them.
_OWN = ("data.data_dir", "data.num_threads", "data.num_workers")
_DIGITS = 16  # of a checksum, so that a line can hold two


def require_same_request(config: ConfigDict) -> None:
    """Raises HostsDiffer where a host was started with another config, code or JAX than host 0."""
    asked = config_lib.flatten(config_lib.to_dict(config))
    values = {f"config.{key}": value for key, value in asked.items() if key not in _OWN}
    hosts.require_equal(hosts.code() | values, "start all hosts with the same command and the same code")


def of_this_host(values: dict[str, Any], config: ConfigDict) -> ConfigDict:
    """The config of a run (`to_dict`), with those of its values that are each host's own from `config`."""
    joined = config_lib.from_dict(values)
    for key in _OWN:
        section, _, name = key.partition(".")
        joined[section][name] = config[section][name]
    return joined


def require_same_contents(parts: Parts) -> None:
    """Raises HostsDiffer where a host has read another data set, or other weights to start from."""
    if hosts.count() == 1:
        return  # The weights' checksum costs a moment.
    data = parts.options.data
    weights = checksums.of_tree(parts.initial_state.to_host().params)["content"]
    contents = {
        f"the checksum of {data.dataset} {data.train_split}": parts.train_split.fingerprint[:_DIGITS],
        f"the checksum of {data.dataset} {data.val_split}": parts.val_split.fingerprint[:_DIGITS],
        "the checksum of the first weights": weights[:_DIGITS],
    }
    hosts.require_equal(contents, "all hosts must read the same data and the same weights")
