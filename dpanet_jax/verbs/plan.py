"""`plan`: says what a run costs and how fast it can be, on machines that need not be there."""

from absl import flags

from dpanet_jax import paths
from dpanet_jax.command_line import asked_hosts, config_flag, host_flags, require_flags, string_flag

WORDS = "memory, speed and largest batch: --config=configs/NAME.py --topology=v5e:16x16|local"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the flags."""
    config_flag(values, argv)
    string_flag(values, "topology", "v5e:16x16 and the like; local; cpu:N, simulated", "local")
    string_flag(values, "output", "a file for the plan as JSON")
    for name, default, words in (
        ("batch_size", 0, "of all devices; 0: the config's own"),
        ("num_classes", 0, "0: those of the prepared data set"),
        ("max_compiles", 5, "most compilations of the search"),
    ):
        flags.DEFINE_integer(name, default, words, lower_bound=0, flag_values=values)
    flags.DEFINE_boolean("search", True, "look for the largest batch that fits", flag_values=values)
    flags.DEFINE_boolean("variants", True, "remat and the other type as well", flag_values=values)
    host_flags(values)


def run(values: flags.FlagValues) -> None:
    """Says what a run costs and how fast it can be, on machines that need not be there."""
    require_flags(values, "config", "topology")
    from dpanet_jax.analysis import plan as plan_lib

    plan_lib.plan(
        values.config,
        values.topology,
        batch_size=values.batch_size,
        num_classes=values.num_classes,
        search=values.search,
        variants=values.variants,
        max_compiles=values.max_compiles,
        hosts=asked_hosts(values),
        output=paths.anywhere(values.output) if values.output else None,
    )
