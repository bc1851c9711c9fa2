"""`train`: trains, or goes on where a run was stopped."""

from absl import flags

from dpanet_jax import config as config_lib
from dpanet_jax.command_line import config_flag, host_flags, join_hosts, require_flags, string_flag

WORDS = "train, or go on: --config=configs/NAME.py --workdir=DIR [--config.KEY=VALUE …]"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the flags."""
    config_flag(values, argv)
    string_flag(values, "workdir", "where the run's files go; of several hosts, the same for all")
    host_flags(values)


def run(values: flags.FlagValues) -> None:
    """Trains, or goes on where a run was stopped."""
    require_flags(values, "config", "workdir")
    config_lib.check_config(values.config, starts=False)
    join_hosts(values, values.config.distributed)
    from dpanet_jax.training import loop

    loop.train(values.config, values.workdir)
