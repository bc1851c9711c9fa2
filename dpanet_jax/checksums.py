"""Checksums, by which what was cut short or changed since it was written is told from what is whole."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_SEAL = "sha256"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-able content with the checksum of itself as one more key, for `unsealed` to check."""
    return {**content, _SEAL: _digest_of_json(content)}


def unsealed(content: Any) -> dict[str, Any]:
    """What `sealed` was given. Content without a checksum, of an earlier version, is returned as it is.

    Raises ValueError where the content is no dictionary, or not what it was when it was sealed.
    """
    if not isinstance(content, dict):
        raise ValueError(f"holds {type(content).__name__}, not a dictionary")
    rest = {key: value for key, value in content.items() if key != _SEAL}
    if _SEAL in content and content[_SEAL] != _digest_of_json(rest):
        raise ValueError("its checksum is not that of its content")
    return rest


def of_tree(tree: Any) -> dict[str, str]:
    """{"structure", "content"}: SHA-256 of the names, types and shapes of a tree's arrays; and of all of it.

    Whether a branch of the tree is a dictionary, a tuple or a named tuple makes no difference.
    """
    content = hashlib.sha256()
    for name, array in named_leaves(tree):
        content.update(_line(name, array))
        content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {"structure": structure_of_tree(tree), "content": content.hexdigest()}


def structure_of_tree(tree: Any) -> str:
    """The "structure" of `of_tree`; of the leaves only the dtype and the shape are read."""
    structure = hashlib.sha256()
    for name, leaf in named_leaves(tree):
        structure.update(_line(name, leaf))
    return structure.hexdigest()


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(name, leaf) of a tree, sorted by name; a name is the keys down to the leaf, joined by "/"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sorted((("/".join(map(_key, path)), leaf) for path, leaf in leaves), key=lambda item: item[0])


def _key(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _line(name: str, leaf: Any) -> bytes:
    return f"{name} {np.dtype(leaf.dtype).name} {tuple(leaf.shape)}\n".encode()


def _digest_of_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
