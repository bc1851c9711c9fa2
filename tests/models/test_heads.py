"""The FCN head's and the dual-pool head's composition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.models.heads.dpanet import DualPoolHead
from dpanet_jax.models.heads.fcn import FCNHead
from dpanet_jax.models.layers import Numerics
from dpanet_jax.options import OptionError

RNG = {"dropout": jax.random.key(3)}
KEYS = {"params": jax.random.key(0), **RNG}


def apply(head, c4, params, train=False):
    return head.apply({"params": params}, {"c4": c4}, train, rngs=RNG)


@pytest.fixture
def c4():
    return np.random.default_rng(0).normal(size=(2, 3, 5, 8))


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_straight_on_c4_without_modules(c4, fusion):
    """Both branches are then c4 itself, so the logits are one product."""
    head = DualPoolHead(
        3, Numerics("float64"), reduce_channels=0, fusion=fusion, spatial="none", channel="none", dropout=0.0
    )
    rng = np.random.default_rng(1)
    width = 16 if fusion == "concat" else 8
    shapes = {"classifier": width, "spatial_classifier": 8, "channel_classifier": 8}
    params = {n: {"kernel": rng.normal(size=(w, 3)), "bias": rng.normal(size=3)} for n, w in shapes.items()}
    with jax.enable_x64(True):
        outputs = apply(head, jnp.asarray(c4), params, train=True)
        fused = np.concatenate([c4, c4], -1) if fusion == "concat" else 2 * c4
        inputs = {"logits": fused, "spatial": c4, "channel": c4}
        names = {"logits": "classifier", "spatial": "spatial_classifier", "channel": "channel_classifier"}
        assert outputs.keys() == inputs.keys()
        for key, x in inputs.items():
            expected = x @ params[names[key]]["kernel"] + params[names[key]]["bias"]
            np.testing.assert_allclose(outputs[key], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spatial, channel, name", [("spa", "none", "lambda"), ("none", "cpa", "mu")])
def test_each_module_acts_on_its_own_branch(c4, random_variables, spatial, channel, name):
    head = DualPoolHead(3, reduce_channels=0, spatial=spatial, channel=channel, dropout=0.0)
    c4 = jnp.asarray(c4, jnp.float32)
    params = random_variables(head, {"c4": c4}, True)["params"]
    module = {"lambda": "spa", "mu": "cpa"}[name]
    run = jax.jit(lambda params: apply(head, c4, params, train=True))
    at_start, after = (run({**params, module: {name: jnp.asarray(value)}}) for value in (0.0, 1.0))
    changed = {key for key in after if not np.allclose(after[key], at_start[key])}
    assert changed == {"logits", "spatial" if name == "lambda" else "channel"}


@pytest.mark.parametrize(
    "option, choices",
    [
        ({"fusion": "product"}, ("concat", "sum")),
        ({"spatial": "pam"}, ("spa", "nonlocal", "none")),
        ({"channel": "cam"}, ("cpa", "none")),
    ],
)
def test_a_wrong_option_is_named(assert_names, option, choices):
    with pytest.raises(OptionError) as error:
        DualPoolHead(3, **option)
    assert_names(error.value, *option.items(), choices)


def test_the_fcn_head_reads_the_stage_that_it_is_told(c4, random_variables):
    stages = {"c3": jnp.asarray(c4[..., :4], jnp.float32), "c4": jnp.asarray(c4, jnp.float32)}
    for stage in stages:
        head = FCNHead(3, stage=stage, dropout=0.0)
        variables = random_variables(head, stages, False)
        assert variables["params"]["conv"]["kernel"].shape[2] == stages[stage].shape[-1]
        logits = head.apply(variables, stages, False)["logits"]
        other = {**stages, **{name: x + 1 for name, x in stages.items() if name != stage}}
        np.testing.assert_array_equal(head.apply(variables, other, False)["logits"], logits)


@pytest.mark.parametrize("head", [DualPoolHead(19, reduce_channels=64), FCNHead(19)])
def test_classifiers_start_as_pytorch_s_convolutions(head):
    """Uniform within ±1/√fan_in, so that the first logits are small; biases 0."""
    stages = {"c4": jnp.ones((1, 2, 2, 64))}
    params = jax.jit(lambda: head.init(KEYS, stages, True))()["params"]
    kernels = [leaf for path, leaf in jax.tree.leaves_with_path(params) if path[-1].key == "kernel"]
    for kernel in kernels:
        bound = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
        assert 0.9 * bound < np.abs(kernel).max() <= bound
        assert abs(np.std(kernel) - bound / np.sqrt(3)) < 0.1 * bound
    assert not any(np.any(params[name]["bias"]) for name in params if "classifier" in name)
