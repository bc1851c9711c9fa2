"""Checksums: the same for the same content, however it is held, and another for any other."""

import json
from typing import Any, NamedTuple

import numpy as np
import pytest

from dpanet_jax import checksums


class Pair(NamedTuple):
    trace: Any
    count: Any


TREE = {"a": Pair(np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(1)), "b": (np.ones(2), ())}


def test_the_kind_of_branch_makes_no_difference() -> None:
    plain = {"b": [TREE["b"][0], {}], "a": {"trace": TREE["a"].trace, "count": TREE["a"].count}}
    assert checksums.of_tree(plain) == checksums.of_tree(TREE)
    strided = {**plain, "a": {**plain["a"], "trace": np.asfortranarray(TREE["a"].trace)}}
    assert checksums.of_tree(strided) == checksums.of_tree(TREE)


@pytest.mark.parametrize(
    ("change", "structure_too"),
    [
        ({"b": (np.array([1.0, 1.0 + 2**-52]), ())}, False),
        ({"b": (np.array([1.0, -0.0]), ())}, False),
        ({"b": (np.ones((2, 1)), ())}, True),
        ({"b": (np.ones(2, np.float32), ())}, True),
        ({"c": np.ones(1)}, True),
    ],
)
def test_whatever_is_changed_is_noticed(change: dict[str, Any], structure_too: bool) -> None:
    before, after = checksums.of_tree(TREE), checksums.of_tree({**TREE, **change})
    assert before["content"] != after["content"]
    assert (before["structure"] != after["structure"]) == structure_too
    assert checksums.structure_of_tree({**TREE, **change}) == after["structure"]


def test_a_seal_is_of_the_content_as_json_holds_it() -> None:
    content = {"z": [1, 2.5, None], "a": {"é": "ü"}}
    stored = json.loads(json.dumps(checksums.sealed(content)))
    assert checksums.unsealed(stored) == content
    assert checksums.unsealed(content) == content, "of an earlier version, which sealed nothing"
    for changed in ({**stored, "z": [1, 2.5, 0]}, {**stored, "more": 1}, {**stored, "sha256": "0"}):
        with pytest.raises(ValueError, match="its checksum is not that of its content"):
            checksums.unsealed(changed)
    with pytest.raises(ValueError, match="holds list, not a dictionary"):
        checksums.unsealed([1])
