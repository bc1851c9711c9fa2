"""`import-torch`: makes a workdir of a PyTorch checkpoint, without training."""

from absl import flags

from dpanet_jax.command_line import config_flag, require_flags, string_flag

WORDS = "the inverse: --config=configs/NAME.py --weights=FILE --workdir=DIR [--classes=FILE]"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the flags."""
    config_flag(values, argv)
    string_flag(values, "weights", "a file of a whole network's weights, or an hf:// address")
    string_flag(values, "workdir", "the run's folder to make; it must not be there, or be empty")
    string_flag(values, "classes", "a classes.csv; none: the classes of the config's prepared data set")


def run(values: flags.FlagValues) -> None:
    """Makes a workdir of a PyTorch checkpoint, without training."""
    require_flags(values, "config", "weights", "workdir")
    from dpanet_jax.training import imported

    folder = imported.import_torch(values.config, values.weights, values.workdir, values.classes)
    print(f"the weights of {values.weights} are in {folder}")
    print(f"evaluate:   python -m dpanet_jax evaluate --workdir={values.workdir}")
    print(f"go on here: the same --config and flags, with train --workdir={values.workdir}")
