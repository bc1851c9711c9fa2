"""Backbone weights with PyTorch's names: torchvision's ResNets and PyTorch-Encoding's deep-stem ones.

Each name stands in one explicit table, made from the model's own parameters; every key of a file is
accounted for.
"""

import fnmatch
import re
from pathlib import Path

import jax
import numpy as np

# In every published ResNet file, and of no use to a backbone.
_IGNORED = ("fc.weight", "fc.bias", "*.num_batches_tracked")
_SHOWN = 10


class WeightsError(ValueError):
    """A weights file does not fit the model; the message lists what is missing, unexpected or mis-shaped."""


def load(path, variables: dict, missing: tuple[str, ...] = ()) -> dict:
    """`variables` of a Segmenter with its backbone's weights replaced by those of a file.

    `path` is a .safetensors file, or a .pth or .pt one, which needs PyTorch and is read with
    weights_only=True. Names are torchvision's, or PyTorch-Encoding's for the deep stem. `missing` are
    fnmatch patterns of names that the file may lack: those keep their value. Everything else that is
    missing, unexpected or mis-shaped is a WeightsError that lists it, as is a pattern that matches no name
    of the model. Values are cast to the model's dtype.
    """
    state_dict = read_state_dict(path)
    table = name_table(variables)
    for pattern in missing:
        if not fnmatch.filter(table, pattern):
            raise WeightsError(f"config.model.pretrained_missing: {pattern!r} matches no name of the model")
    allowed = {name for pattern in missing for name in fnmatch.filter(table, pattern)}
    ignored = {name for pattern in _IGNORED for name in fnmatch.filter(state_dict, pattern)}
    problems = {
        "missing": sorted(table.keys() - state_dict.keys() - allowed),
        "unexpected": sorted(state_dict.keys() - table.keys() - ignored),
    }
    leaves = {}
    mis_shaped = []
    for name, key in table.items():
        old = _get(variables, key)
        if name not in state_dict:
            leaves[key] = old
            continue
        if state_dict[name].shape != torch_shape(old.shape):
            mis_shaped.append(f"{name} {state_dict[name].shape} instead of {torch_shape(old.shape)}")
            continue
        leaves[key] = from_torch(state_dict[name], old.shape).astype(old.dtype)
    problems["mis-shaped"] = mis_shaped
    words = [f"{kind} {_listed(names)}" for kind, names in problems.items() if names]
    if words:
        raise WeightsError(f"{path} does not fit the model: {'; '.join(words)}")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(tuple(entry.key for entry in path), leaf), variables
    )


def to_state_dict(variables: dict) -> dict[str, np.ndarray]:
    """The inverse of `load`: {name: float32 array in PyTorch's layout} of the backbone."""
    return {
        name: to_torch(np.asarray(_get(variables, key), np.float32))
        for name, key in name_table(variables).items()
    }


def name_table(variables: dict) -> dict[str, tuple[str, ...]]:
    """{PyTorch name: path in `variables`} for every parameter and statistic of the backbone."""
    backbone = variables["params"]["backbone"]
    deep = "conv1_0" in backbone
    table = {}
    for module, leaves in _modules(backbone):
        name = torch_module(module, deep)
        for leaf in leaves:
            torch_leaf = {"kernel": "weight", "scale": "weight", "bias": "bias"}[leaf]
            table[f"{name}.{torch_leaf}"] = ("params", "backbone", *module, leaf)
    for module, leaves in _modules(variables["batch_stats"]["backbone"]):
        name = torch_module(module, deep)
        for leaf in leaves:
            table[f"{name}.running_{leaf}"] = ("batch_stats", "backbone", *module, leaf)
    return table


# The deep stem is one Sequential named conv1 in PyTorch, but for its last batch norm.
_DEEP_STEM = {
    "conv1_0": "conv1.0",
    "bn1_0": "conv1.1",
    "conv1_1": "conv1.3",
    "bn1_1": "conv1.4",
    "conv1_2": "conv1.6",
    "bn1_2": "bn1",
}
_IN_BLOCK = {
    **{f"{kind}{i}": f"{kind}{i}" for kind in ("conv", "bn") for i in (1, 2, 3)},
    "downsample_conv": "downsample.0",
    "downsample_bn": "downsample.1",
}


def torch_module(module: tuple[str, ...], deep: bool) -> str:
    """PyTorch's name of one of the backbone's modules: ("layer1_0", "conv1") → "layer1.0.conv1"."""
    if len(module) == 1:
        return _DEEP_STEM[module[0]] if deep else module[0]
    block, inner = module
    stage, index = re.fullmatch(r"(layer[1-4])_(\d+)", block).groups()
    return f"{stage}.{index}.{_IN_BLOCK[inner]}"


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in PyTorch of a parameter: HWIO → OIHW, (in, out) → (out, in, 1, 1)."""
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    return (shape[1], shape[0], 1, 1) if len(shape) == 2 else shape


def from_torch(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A value in PyTorch's layout → ours, of `shape`."""
    if len(shape) == 4:
        return value.transpose(2, 3, 1, 0)
    return value[:, :, 0, 0].T if len(shape) == 2 else value


def to_torch(value: np.ndarray) -> np.ndarray:
    """A value in our layout → PyTorch's."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T[:, :, None, None] if value.ndim == 2 else value


def read_state_dict(path) -> dict[str, np.ndarray]:
    """{name: array} of a weights file; half precision becomes float32. WeightsError where it is not one."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pth", ".pt"):
        return _read_pickle(path)
    raise WeightsError(f"{path}: a weights file ends in .safetensors, .pth or .pt")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, KeyError, AttributeError) as error:  # the last two: an odd dtype
        raise WeightsError(f"{path}: not a readable .safetensors file ({error})") from error
    halves = (np.float16, ml_dtypes.bfloat16)
    return {name: a.astype(np.float32) if a.dtype in halves else a for name, a in arrays.items()}


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading it needs PyTorch (pip install torch), or a .safetensors file instead"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of whatever kind the unpickler trips over
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(f"{path}: not a file of weights that is safe to read ({reason})") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(torch.is_tensor(v) for v in content.values()):
        raise WeightsError(f"{path}: holds no state dict (a dictionary of tensors)")
    return {
        name: (value.float() if value.is_floating_point() and value.itemsize < 4 else value).numpy(force=True)
        for name, value in content.items()
    }


def _modules(tree: dict, path: tuple[str, ...] = ()):
    """(path, names of the leaves) of every module that has parameters of its own."""
    leaves = [name for name, value in tree.items() if not isinstance(value, dict)]
    if leaves:
        yield path, leaves
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _modules(value, (*path, name))


def _get(tree: dict, path: tuple[str, ...]):
    for name in path:
        tree = tree[name]
    return tree


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})"
