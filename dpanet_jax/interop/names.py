"""PyTorch's names of all parameters and statistics: a table for each family, from Flax modules to PyTorch's.

A Flax module is written as its path below the backbone, the block or the head that the table is of. The
names are those of torchvision (ResNet), of PyTorch-Encoding (deep stem, ResNeSt, FCN head, and the whole
network's `pretrained`, `head` and `auxlayer`) and of DANet's published code (its head).
"""

import itertools

PLAIN_STEM = {
    "conv1": "conv1",
    "bn1": "bn1",
}
# One Sequential named conv1 in PyTorch, but for its last batch norm.
DEEP_STEM = {
    "conv1_0": "conv1.0",
    "bn1_0": "conv1.1",
    "conv1_1": "conv1.3",
    "bn1_1": "conv1.4",
    "conv1_2": "conv1.6",
    "bn1_2": "bn1",
}
# Below "layerS_I", which is layerS.I in PyTorch. A basic block has no third convolution.
RESNET_BLOCK = {
    "conv1": "conv1",
    "bn1": "bn1",
    "conv2": "conv2",
    "bn2": "bn2",
    "conv3": "conv3",
    "bn3": "bn3",
    "downsample_conv": "downsample.0",
    "downsample_bn": "downsample.1",
}
RESNEST_BLOCK = {
    "conv1": "conv1",
    "bn1": "bn1",
    "conv2/conv": "conv2.conv",
    "conv2/bn0": "conv2.bn0",
    "conv2/fc1": "conv2.fc1",
    "conv2/bn1": "conv2.bn1",
    "conv2/fc2": "conv2.fc2",
    "conv3": "conv3",
    "bn3": "bn3",
    "downsample_conv": "downsample.1",  # 0 is the average pool
    "downsample_bn": "downsample.2",
}
FCN_HEAD = {
    "conv": "conv5.0",
    "bn": "conv5.1",
    "classifier": "conv5.4",
}
# DANet's head, SPA in the place of its position attention (PAM) and CPA in that of its channel attention.
DPANET_HEAD = {
    "spatial_in_conv": "conv5a.0",
    "spatial_in_bn": "conv5a.1",
    "spa": "sa",
    "spa/query": "sa.query_conv",
    "spa/key": "sa.key_conv",
    "spa/value": "sa.value_conv",
    "nonlocal/query_key": "sa.query_key_conv",
    "nonlocal/value": "sa.value_conv",
    "nonlocal/output": "sa.output_conv",
    "spatial_out_conv": "conv51.0",
    "spatial_out_bn": "conv51.1",
    "channel_in_conv": "conv5c.0",
    "channel_in_bn": "conv5c.1",
    "cpa": "sc",
    "channel_out_conv": "conv52.0",
    "channel_out_bn": "conv52.1",
    "spatial_classifier": "conv6.1",
    "channel_classifier": "conv7.1",
    "classifier": "conv8.1",
}
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "lambda": "gamma",
    "mu": "gamma",
}
PARTS = {
    "backbone": "pretrained",
    "head": "head",
    "auxiliary_head": "auxlayer",
}

# In published files, and without counterpart here: the classifier of ImageNet, which PyTorch-Encoding's
# networks kept until 2020, and batch norm's counts. Patterns of fnmatch.
IGNORED = ("fc.weight", "fc.bias", "pretrained.fc.weight", "pretrained.fc.bias", "*.num_batches_tracked")
# What the position attention of a DANet has: another module than SPA, for all that some names agree.
DANET_ATTENTION = (
    "head.sa.gamma",
    "head.sa.query_conv.weight",
    "head.sa.query_conv.bias",
    "head.sa.key_conv.weight",
    "head.sa.key_conv.bias",
    "head.sa.value_conv.weight",
    "head.sa.value_conv.bias",
)
# On every name of a network that was saved inside PyTorch's DataParallel.
DATA_PARALLEL = "module."


def name_table(variables: dict, backbone_only: bool = False) -> dict[str, tuple[str, ...]]:
    """{PyTorch name: path in `variables`} for every parameter and statistic of a Segmenter.

    With `backbone_only` the backbone's alone, by their bare names, as files of ImageNet weights have them.
    Which family a part is of is seen from its modules. Raises ValueError for a module in no table.
    """
    modules = _modules(variables["params"], backbone_only)
    table = {}
    for collection in ("params", "batch_stats"):
        for *path, leaf in _leaves(variables.get(collection, {})):
            if backbone_only and path[0] != "backbone":
                continue
            module = "/".join(path)
            if module not in modules or leaf not in LEAVES:
                raise ValueError(
                    f"{module}/{leaf} has no name in PyTorch: it is in no table of interop/names.py"
                )
            table[f"{modules[module]}.{LEAVES[leaf]}"] = (collection, *path, leaf)
    return table


def is_danet(state_dict: dict) -> bool:
    """Whether a file is DANet's: there queries have an eighth of the channels, in SPA all of them."""
    query = state_dict.get("head.sa.query_conv.weight")
    return query is not None and query.ndim == 4 and query.shape[0] != query.shape[1]


def _modules(params: dict, backbone_only: bool) -> dict[str, str]:
    """{path of a Flax module: PyTorch module}, by the tables that fit `params`."""
    modules = {}
    for part, torch_part in PARTS.items():
        if part in params:
            table = _backbone(params[part]) if part == "backbone" else _head(params[part])
            prefix = "" if backbone_only else f"{torch_part}."
            modules.update({f"{part}/{module}": f"{prefix}{name}" for module, name in table.items()})
    return modules


def _backbone(params: dict) -> dict[str, str]:
    table = dict(DEEP_STEM if "conv1_0" in params else PLAIN_STEM)
    block = RESNEST_BLOCK if "conv" in params["layer1_0"]["conv2"] else RESNET_BLOCK
    for stage in (1, 2, 3, 4):
        for i in itertools.takewhile(lambda i, s=stage: f"layer{s}_{i}" in params, itertools.count()):
            table.update(
                {f"layer{stage}_{i}/{key}": f"layer{stage}.{i}.{name}" for key, name in block.items()}
            )
    return table


def _head(params: dict) -> dict[str, str]:
    return DPANET_HEAD if "spatial_classifier" in params else FCN_HEAD


def _leaves(tree: dict, path: tuple[str, ...] = ()):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name)
