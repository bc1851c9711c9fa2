"""`compare`: holds the network's numbers against its PyTorch twin's."""

import importlib.util
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from dpanet_jax import config as config_lib
from dpanet_jax import paths
from dpanet_jax.command_line import config_flag, require_flags, string_flag
from dpanet_jax.errors import UsageError

WORDS = "hold the numbers against PyTorch's: --config=configs/NAME.py --torch=FILE|random"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the flags."""
    config_flag(values, argv)
    string_flag(values, "torch", "weights for both sides: a file, an hf:// address, or random")
    string_flag(values, "output", "a folder for report.json and report.png (none: runs/compare/CONFIG)")
    string_flag(values, "split", "split that both mean IoUs are of (none: the config's validation split)")
    string_flag(values, "precision", "float64, float32 or both", "both")
    flags.DEFINE_integer("steps", 10, "steps of SGD", flag_values=values)
    flags.DEFINE_integer("images", 0, "images of the split; 0: all, -1: none", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Holds the network's numbers against its PyTorch twin's."""
    require_flags(values, "config", "torch")
    config_lib.check_config(values.config)
    for module in ("torch", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"compare needs {module}: pip install {module}")
    from dpanet_jax import compilation_cache
    from dpanet_jax.compare import run as run_lib

    compilation_cache.enable()
    name = Path(config_flags.get_config_filename(values["config"])).stem
    run_lib.run(
        values.config,
        values.torch,
        paths.anywhere(values.output or Path("runs", "compare", name)),
        split=values.split or "",
        steps=values.steps,
        precisions=run_lib.PRECISIONS if values.precision == "both" else (values.precision,),
        max_images=values.images,
    )
