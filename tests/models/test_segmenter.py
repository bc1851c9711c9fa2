"""Whole networks: what they return, in which shapes and types."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax import models
from dpanet_jax.models.backbones import resnet
from dpanet_jax.models.segmenter import init_variables

SMALL = {"backbone": "resnet18", "width": 4, "reduce_channels": 4, "output_stride": 16}


def small(**options):
    unused = {"reduce_channels"} if options.get("name") == "fcn" else set()
    return models.build(5, **{k: v for k, v in {**SMALL, **options}.items() if k not in unused})


def shapes_of(model, size, train, with_stages=False):
    """({"params", "batch_stats"}, outputs), shapes and dtypes only."""

    def run(rng, images):
        variables = init_variables(model, rng)
        outputs = model.apply(
            variables, images, train, with_stages, rngs={"dropout": rng}, mutable=["batch_stats"]
        )
        return variables, outputs

    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables, (outputs, updates) = jax.eval_shape(run, jax.random.key(0), images)
    return variables, outputs, updates


@pytest.mark.parametrize("name, auxiliary", list(itertools.product(("dpanet", "fcn"), (True, False))))
def test_output_keys(name, auxiliary):
    model = small(name=name, auxiliary=auxiliary)
    branches = {"spatial", "channel"} if name == "dpanet" else set()
    _, outputs, _ = shapes_of(model, (33, 47), True)
    assert outputs.keys() == {"logits"} | branches | ({"auxiliary"} if auxiliary else set())
    _, outputs, _ = shapes_of(model, (33, 47), False)
    assert outputs.keys() == {"logits"}
    _, outputs, _ = shapes_of(model, (33, 47), False, with_stages=True)
    assert outputs.keys() == {"logits", "c1", "c2", "c3", "c4"}


@pytest.mark.parametrize("output_stride, stem", list(itertools.product((8, 16, 32), ("plain", "deep"))))
def test_shapes_at_odd_sizes(output_stride, stem):
    height, width = 67, 101
    _, outputs, _ = shapes_of(small(output_stride=output_stride, stem=stem), (height, width), True, True)
    for key, stride, channels in (
        ("c1", 4, 4),
        ("c2", 8, 8),
        ("c3", min(16, output_stride), 16),
        ("c4", output_stride, 32),
        ("logits", output_stride, 5),
        ("spatial", output_stride, 5),
        ("channel", output_stride, 5),
        ("auxiliary", min(16, output_stride), 5),
    ):
        assert outputs[key].shape == (2, -(-height // stride), -(-width // stride), channels), key


@pytest.mark.parametrize("options", [{"qkv": "conv"}, {"spatial": "nonlocal"}, {"name": "fcn"}], ids=str)
def test_bfloat16_compute_keeps_parameters_statistics_and_logits_in_float32(options):
    model = small(dtype="bfloat16", **options)
    variables, outputs, updates = shapes_of(model, (32, 32), True)
    float32 = {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, outputs, updates))} == float32
    _, outputs, _ = shapes_of(model, (32, 32), False, with_stages=True)
    assert outputs["c4"].dtype == jnp.bfloat16


@pytest.fixture
def one_block_a_stage(monkeypatch):
    """What is slow here is compiling."""
    monkeypatch.setitem(resnet.ARCHITECTURES, "resnet18", (resnet.BasicBlock, (1, 1, 1, 1)))


def test_remat_changes_neither_parameters_nor_outputs_nor_gradients(one_block_a_stage, random_variables):
    images = jax.random.normal(jax.random.key(1), (2, 33, 47, 3))
    variables, results = [], []
    for remat in (False, True):
        model = small(name="fcn", remat=remat, auxiliary=False)

        def loss(params, stats, model=model):
            outputs, updates = model.apply(
                {"params": params, "batch_stats": stats},
                images,
                True,
                rngs={"dropout": jax.random.key(2)},
                mutable=["batch_stats"],
            )
            return jnp.mean(outputs["logits"] ** 2), (outputs, updates)

        variables.append(random_variables(model, images, train=True))
        parts = variables[0]["params"], variables[0]["batch_stats"]
        step = jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(*parts)
        assert ("remat" in str(step.jaxpr)) == remat
        results.append(step.lower().compile()(*parts))
    jax.tree.map(np.testing.assert_array_equal, *variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *results)


def test_initial_values_do_not_depend_on_the_image_size():
    model, rng = small(), jax.random.key(0)
    shapes, draws = [], []
    for size in ((64, 64), (40, 24)):
        init = functools.partial(init_variables, model, image_size=size)
        shapes.append(jax.eval_shape(init, rng))
        # Two leaves, as drawing them all takes long to compile.
        draws.append(jax.jit(lambda rng, init=init: two_leaves(init(rng)["params"]))(rng))
    assert shapes[0] == shapes[1]
    jax.tree.map(np.testing.assert_array_equal, *draws)
    assert all(np.any(leaf) for leaf in draws[0])


def two_leaves(params):
    return params["backbone"]["conv1"]["kernel"], params["head"]["classifier"]["kernel"]


def test_evaluation_is_deterministic_and_needs_no_rng(one_block_a_stage, random_variables):
    model = small()
    images = jax.random.normal(jax.random.key(1), (2, 33, 47, 3))
    variables = random_variables(model, images, train=True)
    run = jax.jit(lambda variables, images: model.apply(variables, images, train=False)["logits"])
    logits = run(variables, images)
    assert np.isfinite(logits).all()
    # Running statistics, not the batch's: an image's logits do not depend on its neighbour.
    swapped = run(variables, images[::-1])
    np.testing.assert_allclose(swapped[::-1], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(variables, images.at[1].set(0))[0], logits[0], rtol=1e-4, atol=1e-5)
