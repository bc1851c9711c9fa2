"""PyTorch's names of all parameters and statistics: a table for each family, from Flax modules to PyTorch's.

A Flax module is written as its path below the backbone, the block or the head that the table is of; "" is
that itself. A parameter whose own name is not in LEAVES has a line for itself, such as {"gate/level":
"gate.level"}. The names are those of torchvision (ResNet), of PyTorch-Encoding (deep stem, ResNeSt, FCN
head, and the whole network's `pretrained`, `head` and `auxlayer`) and of DANet's published code (its head).

Other projects' spellings of the same networks are in `spellings`. A head, backbone or network of your own
gets its names by `register_head_names` and the like.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dpanet_jax.interop.errors import WeightsError

Table = Mapping[str, str]

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
    "network": "",
}

# By name; which of them is a network's is seen from its modules. The ResNets' and ResNeSts' own is made from
# the tables above.
HEAD_NAMES: dict[str, Table] = {"dpanet": DPANET_HEAD, "fcn": FCN_HEAD}
BACKBONE_NAMES: dict[str, Table] = {}
NETWORK_NAMES: dict[str, Table] = {}

# In published files, and without counterpart here: the classifier of ImageNet, which PyTorch-Encoding's
# networks kept until 2020, and batch norm's counts. Patterns of fnmatch.
IGNORED = ("fc.weight", "fc.bias", "pretrained.fc.weight", "pretrained.fc.bias", "*.num_batches_tracked")
# The position attention of a DANet. Some of its names are SPA's too, which is another module.
DANET_ATTENTION = (
    "head.sa.gamma",
    "head.sa.query_conv.weight",
    "head.sa.query_conv.bias",
    "head.sa.key_conv.weight",
    "head.sa.key_conv.bias",
    "head.sa.value_conv.weight",
    "head.sa.value_conv.bias",
)


def register_head_names(name: str, table: Table) -> None:
    """Makes {module: PyTorch's name} known for the head that is registered as `name`.

    It may have more lines than a network has modules, for options. WeightsError where it has another table.
    """
    _register(HEAD_NAMES, name, table)


def register_backbone_names(name: str, table: Table) -> None:
    """Makes {module: PyTorch's name} known for a backbone, as `register_head_names` does."""
    _register(BACKBONE_NAMES, name, table)


def register_network_names(name: str, table: Table) -> None:
    """Makes {module: PyTorch's name} known for a whole network, as `register_head_names` does.

    In files they stand as they are, without `pretrained.` or `head.` before them.
    """
    _register(NETWORK_NAMES, name, table)


def _register(tables: dict[str, Table], name: str, table: Table) -> None:
    if tables.get(name, table) != table:
        raise WeightsError(f"the names of {name} are registered already, and are others")
    tables[name] = table


def name_table(variables: dict[str, Any], backbone_only: bool = False) -> dict[str, tuple[str, ...]]:
    """{PyTorch name: path in `variables`} for every parameter and statistic of a Segmenter.

    With `backbone_only` the backbone's alone, by their bare names, as files of ImageNet weights have them.
    Which table a part is named by is seen from its modules: the smallest that has them all. Raises
    WeightsError for a module that no table has, or that two such tables name differently.
    """
    leaves: dict[str, list[tuple[str, ...]]] = {}
    for collection in ("params", "batch_stats"):
        for path in _leaves(variables.get(collection, {})):
            leaves.setdefault(path[0], []).append((collection, *path))
    table: dict[str, tuple[str, ...]] = {}
    for part, paths in leaves.items():
        if part not in PARTS:
            raise WeightsError(f"{part} is no part of a network: those are {', '.join(PARTS)}")
        if backbone_only and part != "backbone":
            continue
        names = _names_of(part, ["/".join(path[2:]) for path in paths], variables["params"].get(part, {}))
        prefix = f"{PARTS[part]}." if PARTS[part] and not backbone_only else ""
        for name, path in zip(names, paths, strict=True):
            if table.setdefault(prefix + name, path) != path:
                both = " and ".join("/".join(place[1:]) for place in (table[prefix + name], path))
                raise WeightsError(f"{both} have one name in PyTorch, {prefix + name}")
    return table


def is_danet(state_dict: Mapping[str, np.ndarray]) -> bool:
    """Whether a file is DANet's: there queries have an eighth of the channels, in SPA all of them."""
    query = state_dict.get("head.sa.query_conv.weight")
    return query is not None and query.ndim == 4 and query.shape[0] != query.shape[1]


def leaf_paths(variables: dict[str, Any], part: str) -> Iterator[tuple[str, ...]]:
    """The path in `variables` of each parameter and statistic of a part: ("params", part, module …, leaf)."""
    for collection in ("params", "batch_stats"):
        for path in _leaves(variables.get(collection, {}).get(part, {})):
            yield (collection, part, *path)


def _names_of(part: str, leaves: list[str], params: dict[str, Any]) -> list[str]:
    """PyTorch's names, below the part's own, of leaves that are written as paths below the part."""
    of_part: dict[str, list[Table]] = {
        "backbone": [*BACKBONE_NAMES.values(), *_residual(params)],
        "head": [*HEAD_NAMES.values()],
        "auxiliary_head": [FCN_HEAD],
        "network": [*NETWORK_NAMES.values()],
    }
    tables = of_part[part]
    named = [[name_in(table, leaf) for leaf in leaves] for table in tables]
    sizes = [len(table) for table, names in zip(tables, named, strict=True) if None not in names]
    whole = {
        tuple(str(name) for name in names)
        for table, names in zip(tables, named, strict=True)
        if None not in names and len(table) == min(sizes)
    }
    if len(whole) == 1:
        return list(whole.pop())
    if not whole:
        nearest = min(named, key=lambda names: names.count(None), default=[None] * len(leaves))
        odd = leaves[nearest.index(None)]
        kind = part.removeprefix("auxiliary_")
        words = f"give the {kind} a table by dpanet_jax.interop.names.register_{kind}_names"
    else:
        odd = next(leaf for leaf, *names in zip(leaves, *whole, strict=True) if len(set(names)) > 1)
        words = f"two registered tables fit this {part}, and name it differently; name its modules otherwise"
    raise WeightsError(f"{part}/{odd} has no name of its own in PyTorch: {words}")


def name_in(table: Table, leaf: str) -> str | None:
    """The name of a leaf, written as a path, by a table; None where the table lacks its module."""
    if leaf in table:
        return table[leaf]
    module, _, last = leaf.rpartition("/")
    if module not in table or last not in LEAVES:
        return None
    return f"{table[module]}.{LEAVES[last]}" if table[module] else LEAVES[last]


def residual_table(
    params: Mapping[str, Any], stem: Table, block: Table, block_name: str = "layer{stage}.{i}"
) -> Table:
    """The table of a residual backbone of these modules, with a stem's and a block's names."""
    table = dict(stem)
    for stage in (1, 2, 3, 4):
        for i in itertools.count():
            if f"layer{stage}_{i}" not in params:
                break
            name = block_name.format(stage=stage, stage_from_0=stage - 1, i=i)
            table.update({f"layer{stage}_{i}/{key}": f"{name}.{below}" for key, below in block.items()})
    return table


def _residual(params: dict[str, Any]) -> list[Table]:
    """The table of a ResNet or ResNeSt of these blocks; none where it is neither."""
    if "conv2" not in params.get("layer1_0", {}):
        return []
    stem = DEEP_STEM if "conv1_0" in params else PLAIN_STEM
    block = RESNEST_BLOCK if "conv" in params["layer1_0"]["conv2"] else RESNET_BLOCK
    return [residual_table(params, stem, block)]


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name)
