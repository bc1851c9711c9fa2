"""Which weights a network starts from: the last two options of `config.model`."""

import dataclasses
from typing import Annotated

from dpanet_jax.options import Option


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights with PyTorch's names, of a backbone or of a whole network; see `interop.torch.load`."""

    pretrained: Annotated[
        str,
        Option("file of weights to start from (.safetensors, .pth), or hf://OWNER/NAME[/FILE]", kind="start"),
    ] = ""
    pretrained_missing: Annotated[
        tuple[str, ...],
        Option("patterns of names in which the file and the model may differ", kind="start"),
    ] = ()
