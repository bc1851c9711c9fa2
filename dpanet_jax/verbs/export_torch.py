"""`export-torch`: writes a trained model's weights with the published PyTorch names."""

from absl import flags

from dpanet_jax import paths
from dpanet_jax.command_line import require_flags, string_flag
from dpanet_jax.verbs.shared import model_flags, trained

WORDS = "weights with PyTorch's names: --workdir=DIR --output=FILE.safetensors"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the flags."""
    model_flags(values, "the run whose model is exported")
    string_flag(values, "output", "the file to write, FILE.safetensors; one that is there is replaced")


def run(values: flags.FlagValues) -> None:
    """Writes a trained model's weights with the published PyTorch names."""
    require_flags(values, "workdir", "output")
    from dpanet_jax.interop import files

    output = paths.anywhere(values.output)
    files.require_writable(output)
    from dpanet_jax.interop.torch import to_state_dict

    model = trained(values)
    state_dict = to_state_dict(model.variables)
    files.write_state_dict(state_dict, output)
    print(f"{len(state_dict)} arrays of {model.folder} are in {output}")
    print(f"here:       --config.model.pretrained={output}")
    print(f"in PyTorch: load_state_dict(safetensors.torch.load_file({str(output)!r}))")
