"""Names → networks: what `config.model.name` and `.backbone` may say.

A backbone is a Flax module with the fields `architecture` (the name it is registered under) and
`numerics`; it is called with (images, train) and returns {"c1", …, "c4"}.

A head has `num_classes` and `numerics`, is called with (stages, train) and returns {"logits", …}, all
(B, h, w, K). Its class attribute LOSS_TERMS says which outputs the loss reads: {term: LossTerm}.

A whole network has `num_classes` and `numerics`, is called with (images, train), and returns what a head
does; LOSS_TERMS likewise. It needs no stages: the backbone's options are then not used.

All other fields that are marked as options are keys of config.model. A class with a field `options` is
handed all values, for the modules that its choices bring in.
"""

from typing import Any

from flax import linen as nn

from dpanet_jax.models.backbones import resnest, resnet
from dpanet_jax.models.heads.dpanet import DualPoolHead
from dpanet_jax.models.heads.fcn import FCNHead
from dpanet_jax.options import OptionError

BACKBONES: dict[str, type[Any]] = {
    **dict.fromkeys(resnet.ARCHITECTURES, resnet.ResNet),
    **dict.fromkeys(resnest.ARCHITECTURES, resnest.ResNeSt),
}
HEADS: dict[str, type[Any]] = {
    "dpanet": DualPoolHead,
    "fcn": FCNHead,
}
NETWORKS: dict[str, type[Any]] = {}


def register_backbone(name: str, backbone: type[nn.Module]) -> None:
    """Makes `backbone` a choice of config.model.backbone. OptionError where the name is another's."""
    _register(BACKBONES, name, backbone)


def register_head(name: str, head: type[nn.Module]) -> None:
    """Makes `head` a choice of config.model.name. OptionError where the name is another's."""
    _register(HEADS, name, head)


def register_network(name: str, network: type[nn.Module]) -> None:
    """Makes a whole network a choice of config.model.name. OptionError where the name is another's."""
    _register(NETWORKS, name, network)


def _register(registry: dict[str, type[Any]], name: str, cls: type[nn.Module]) -> None:
    others = [known for known in (BACKBONES, HEADS, NETWORKS) if known is not registry]
    # The same class once more is no mistake: a module may be imported by two names.
    taken = registry.get(name, cls)
    if any(name in known for known in others) or taken.__qualname__ != cls.__qualname__:
        raise OptionError(f"the name {name!r} is taken: register {cls.__name__} under another")
    registry[name] = cls
