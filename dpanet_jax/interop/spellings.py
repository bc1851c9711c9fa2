"""Other projects' names of the same modules: a table for each project, in the manner of `names`.

Sources: torchvision's models/segmentation/fcn.py; mmsegmentation's backbones/resnet.py and
decode_heads/fcn_head.py, whose ResNets mmpretrain has too; transformers' models/resnet/modeling_resnet.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dpanet_jax.interop.names import (
    FCN_HEAD,
    PLAIN_STEM,
    RESNEST_BLOCK,
    RESNET_BLOCK,
    Table,
    leaf_paths,
    name_in,
    name_table,
    residual_table,
)

# One Sequential named stem in mmsegmentation, its batch norms included.
MMSEG_DEEP_STEM = {
    "conv1_0": "stem.0",
    "bn1_0": "stem.1",
    "conv1_1": "stem.3",
    "bn1_1": "stem.4",
    "conv1_2": "stem.6",
    "bn1_2": "stem.7",
}
TRANSFORMERS_STEM = {
    "conv1": "embedder.embedder.convolution",
    "bn1": "embedder.embedder.normalization",
}
TRANSFORMERS_BLOCK = {
    "conv1": "layer.0.convolution",
    "bn1": "layer.0.normalization",
    "conv2": "layer.1.convolution",
    "bn2": "layer.1.normalization",
    "conv3": "layer.2.convolution",
    "bn3": "layer.2.normalization",
    "downsample_conv": "shortcut.convolution",
    "downsample_bn": "shortcut.normalization",
}
# An FCN head's modules below the head's own name.
TORCHVISION_FCN_HEAD = {
    "conv": "0",
    "bn": "1",
    "classifier": "4",
}
MMSEG_FCN_HEAD = {
    "conv": "convs.0.conv",
    "bn": "convs.0.bn",
    "classifier": "conv_seg",
}


@dataclasses.dataclass(frozen=True)
class Project:
    """How a project's whole segmentation networks are named, beside `backbone.`."""

    name: str
    head: str
    auxiliary_head: str
    fcn_head: Table


PROJECTS = (
    Project("torchvision", "classifier", "aux_classifier", TORCHVISION_FCN_HEAD),
    Project("mmsegmentation", "decode_head", "auxiliary_head", MMSEG_FCN_HEAD),
)

# The name that a project gives the backbone, and what stands beside it, which has no counterpart here unless
# it is an FCN's: left out, and said. Patterns of fnmatch.
BESIDE: Mapping[str, tuple[str, ...]] = {
    # torchvision's and mmsegmentation's segmentation, mmpretrain's classification
    "backbone": ("classifier.*", "aux_classifier.*", "decode_head.*", "auxiliary_head.*", "neck.*", "head.*"),
    # torchvision's detection
    "backbone.body": ("backbone.fpn.*", "rpn.*", "roi_heads.*", "head.*"),
    # segmentation_models.pytorch
    "encoder": ("decoder.*", "segmentation_head.*", "classification_head.*"),
    # transformers
    "resnet": ("classifier.*",),
}
# What torch.compile, FSDP, activation checkpointing and Lightning's strategies add to the names of modules
# that they wrap, wherever these stand.
WRAPPERS = (
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
)
# Counts that any program may add, without counterpart anywhere.
COUNTS = ("*num_batches_tracked", "n_averaged", "*.n_averaged")


def backbone_spellings(variables: dict[str, Any]) -> list[dict[str, str]]:
    """[{name in a file: PyTorch's published name}] for a network's backbone, the published one first."""
    published = name_table(variables, backbone_only=True)
    params = variables["params"]["backbone"]
    found = [{name: name for name in published}]
    if "conv2" not in params.get("layer1_0", {}):
        return found
    names = {path: name for name, path in published.items()}
    block = RESNEST_BLOCK if "conv" in params["layer1_0"]["conv2"] else RESNET_BLOCK
    for table in (
        residual_table(params, {**PLAIN_STEM, **MMSEG_DEEP_STEM}, block),
        residual_table(
            params, TRANSFORMERS_STEM, TRANSFORMERS_BLOCK, "encoder.stages.{stage_from_0}.layers.{i}"
        ),
    ):
        spelled = {path: name_in(table, "/".join(path[2:])) for path in leaf_paths(variables, "backbone")}
        if None not in spelled.values():
            found.append({str(spelled[path]): name for path, name in names.items()})
    return found


def fcn_spelling(
    variables: dict[str, Any], whole: Mapping[str, tuple[str, ...]], part: str, table: Table, top: str
) -> dict[str, str]:
    """{name in a file: name in `whole`} for an FCN head of a model; {} where the part is none.

    part: "head" or "auxiliary_head". whole: `name_table` of the model. table and top: the project's.
    """
    if not set(variables["params"].get(part, {})) <= set(FCN_HEAD):
        return {}
    names = {path: name for name, path in whole.items()}
    return {
        f"{top}.{name_in(table, '/'.join(path[2:]))}": names[path] for path in leaf_paths(variables, part)
    }
