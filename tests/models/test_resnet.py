"""Backbones: sizes, dilations, batch norm, rematerialisation. Parity with PyTorch is in tests/interop."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax import models
from dpanet_jax.models.backbones.resnet import ResNet, block_dilations
from dpanet_jax.models.layers import Numerics
from dpanet_jax.options import OptionError


def stages(model, height, width):
    """The shapes of c1 to c4; nothing is run."""
    x = jnp.zeros((1, height, width, 3))
    outputs, _ = jax.eval_shape(lambda rng: model.init_with_output(rng, x, False), jax.random.key(0))
    return [outputs[f"c{i}"].shape for i in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("output_stride", "strides"), [(8, (4, 8, 8, 8)), (16, (4, 8, 16, 16)), (32, (4, 8, 16, 32))]
)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (47, 33), (1, 8)])
def test_sizes_are_rounded_up(output_stride, strides, height, width):
    shapes = stages(ResNet("resnet18", width=8, output_stride=output_stride), height, width)
    channels = (8, 16, 32, 64)
    expected = [(1, -(-height // s), -(-width // s), c) for s, c in zip(strides, channels, strict=True)]
    assert shapes == expected


@pytest.mark.parametrize("name", models.BACKBONES)
def test_widths_and_depths(name):
    depths = {
        "resnet18": (2, 2, 2, 2),
        "resnet34": (3, 4, 6, 3),
        "resnet50": (3, 4, 6, 3),
        "resnet101": (3, 4, 23, 3),
        "resnet152": (3, 8, 36, 3),
        "resnest50": (3, 4, 6, 3),
        "resnest101": (3, 4, 23, 3),
    }[name]
    expansion = 1 if name in ("resnet18", "resnet34") else 4
    model = models.BACKBONES[name](name)
    x = jnp.zeros((1, 32, 32, 3))
    outputs, variables = jax.eval_shape(lambda rng: model.init_with_output(rng, x, False), jax.random.key(0))
    assert [outputs[f"c{i}"].shape[-1] for i in (1, 2, 3, 4)] == [64 * 2**i * expansion for i in range(4)]
    blocks = [key for key in variables["params"] if key.startswith("layer")]
    assert set(blocks) == {f"layer{i + 1}_{j}" for i, depth in enumerate(depths) for j in range(depth)}


def convolutions(equations, model):
    """(stride, dilation) of every 3×3 convolution after the stem, in order, from the traced program."""
    x = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(lambda rng: model.init(rng, x, False), jax.random.key(0))
    traced = [e for e in equations(lambda v: model.apply(v, x, False), shapes) if "rhs_dilation" in e.params]
    found = []
    for params in (equation.params for equation in traced):
        ways = {params["window_strides"], params["rhs_dilation"], *params["padding"]}
        assert all(vertical == horizontal for vertical, horizontal in ways)
        found.append((params["window_strides"][0], params["rhs_dilation"][0], params["padding"][0][0]))
    assert found[0] == (2, 1, 3), "the stem"
    assert all(pad == dilation for _, dilation, pad in found[1:])
    return [conv[:2] for conv in found[1:]]


PLAIN, HALVED = [(1, 1)], [(2, 1)]


@pytest.mark.parametrize(
    ("options", "layer3", "layer4"),
    [
        ({"output_stride": 32}, HALVED + 5 * PLAIN, HALVED + 2 * PLAIN),
        ({"output_stride": 16}, HALVED + 5 * PLAIN, [(1, 1), (1, 2), (1, 2)]),
        ({"output_stride": 8}, [(1, 1)] + 5 * [(1, 2)], [(1, 2), (1, 4), (1, 4)]),
        (
            {"output_stride": 8, "multi_grid": (4, 8, 16)},
            [(1, 1)] + 5 * [(1, 2)],
            [(1, 4), (1, 8), (1, 16)],
        ),
        ({"output_stride": 16, "multi_grid": (1, 2, 3)}, HALVED + 5 * PLAIN, [(1, 1), (1, 2), (1, 3)]),
    ],
)
def test_strides_and_dilations_of_resnet50(equations, options, layer3, layer4):
    found = convolutions(equations, ResNet("resnet50", width=8, **options))
    assert found == 3 * PLAIN + HALVED + 3 * PLAIN + layer3 + layer4


def test_second_convolution_of_a_basic_block_has_the_stages_dilation():
    assert block_dilations(1, 2) == [(1, 1), (1, 1)]
    assert block_dilations(2, 2) == [(1, 2), (2, 2)]
    assert block_dilations(4, 3) == [(2, 4), (4, 4), (4, 4)]
    assert block_dilations(4, 2, (4, 8)) == [(4, 4), (8, 4)]


@pytest.mark.parametrize(
    "option, choices",
    [
        ({"stem": "deeper"}, ("plain", "deep", "v1c")),
        ({"output_stride": 4}, (8, 16, 32)),
    ],
)
def test_a_wrong_option_is_named(assert_names, option, choices):
    with pytest.raises(OptionError) as error:
        ResNet("resnet18", **option)
    assert_names(error.value, *option.items(), choices)


@pytest.mark.parametrize("name, depth", [("resnet18", 2), ("resnest50", 3)])
def test_multi_grid_has_a_dilation_for_each_block(assert_names, name, depth):
    network = models.BACKBONES[name]
    grid = (1, 2, 4, 8)
    assert network(name, multi_grid=grid[:depth]).multi_grid == grid[:depth]
    with pytest.raises(OptionError) as error:
        network(name, multi_grid=grid)
    assert_names(error.value, ("multi_grid", grid), (name, f"{depth} blocks"))


def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_in_float32():
    model = ResNet("resnet18", Numerics("bfloat16"), width=2)
    x = jnp.zeros((2, 33, 32, 3), jnp.bfloat16)
    variables = jax.eval_shape(lambda rng: model.init(rng, x, True), jax.random.key(0))
    outputs, updates = jax.eval_shape(lambda v: model.apply(v, x, True, mutable=["batch_stats"]), variables)
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, (variables, updates))
    assert set(jax.tree.leaves(dtypes)) == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in outputs.values()} == {jnp.dtype("bfloat16")}
    # Batch norm's sums too: in bfloat16 a small summand is lost beside a large sum.
    program = str(jax.make_jaxpr(lambda v, x: model.apply(v, x, True, mutable=["batch_stats"]))(variables, x))
    sums = re.findall(r":(\w+)\[\d+\] = reduce_sum", program)
    assert sums and set(sums) == {"f32"}


def test_running_statistics_move_by_a_tenth():
    model = ResNet("resnet18", width=2)
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = jax.eval_shape(lambda rng: model.init(rng, x, True), jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), variables)
    variables["batch_stats"] = jax.tree.map(np.ones_like, variables["batch_stats"])
    kernel = variables["params"]["conv1"]["kernel"]
    _, updates = jax.jit(lambda v: model.apply(v, x, True, mutable=["batch_stats"]))(variables)
    stem = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), [(3, 3), (3, 3)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    new = updates["batch_stats"]["bn1"]
    np.testing.assert_allclose(new["mean"], 0.9 + 0.1 * stem.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(new["var"], 0.9 + 0.1 * stem.var((0, 1, 2), ddof=1), rtol=1e-4)
