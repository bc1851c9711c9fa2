"""Whole networks against values that their PyTorch twins gave once: runs where PyTorch is not installed."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from dpanet_jax import models
from dpanet_jax.compare import flax_side
from dpanet_jax.compare.differences import BARS
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.models.segmenter import init_variables

GOLDEN = Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("networks", GOLDEN / "networks.py")
networks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(networks)
EXPECTED = json.loads((GOLDEN / "networks.json").read_text())["networks"]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_number_is_the_golden_one_in_float64(name):
    recipe, expected = networks.recipe(name), dict(EXPECTED[name])
    weights = networks.weights(expected.pop("shapes"))
    model = models.build(recipe.num_classes, **recipe.options, param_dtype="float64")
    with jax.enable_x64(True):
        like = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), like)
        variables = torch_weights.fit(weights, like)
        found = networks.summary(flax_side.measure(recipe, variables, networks.batches(), "float64"))
    assert {group: set(names) for group, names in found.items()} == {
        group: set(names) for group, names in expected.items()
    }
    for group, names in expected.items():
        largest = max(values[0] for values in names.values())
        for key, values in names.items():
            # The sum against a pattern adds up the differences of many elements.
            atol = BARS[group] * max(values[0], abs(values[1]), 1e-3 * largest)
            np.testing.assert_allclose(found[group][key], values, rtol=0, atol=atol, err_msg=f"{group} {key}")


def test_the_golden_networks_cover_what_they_say():
    for name, expected in EXPECTED.items():
        assert len(expected["losses"]) == networks.STEPS
        assert expected["gradients"].keys() == expected["parameters"].keys()
        assert expected["gradients"].keys() | expected["batch_stats"].keys() == expected["shapes"].keys(), (
            name
        )
