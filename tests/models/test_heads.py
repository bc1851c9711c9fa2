"""Dropout of whole channels, and the FCN head's and the dual-pool head's composition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax.models.heads import ChannelDropout, DualPoolHead, FCNHead

RNG = {"dropout": jax.random.key(3)}
KEYS = {"params": jax.random.key(0), **RNG}


def test_dropout_takes_whole_channels_at_its_rate():
    x = 1 + jax.random.uniform(jax.random.key(0), (8, 3, 4, 500))
    y = ChannelDropout(0.25).apply({}, x, train=True, rngs=RNG)
    dropped = np.asarray(y == 0).all((1, 2))
    np.testing.assert_array_equal(dropped, np.asarray(y == 0).any((1, 2)))
    kept = np.broadcast_to(~dropped[:, None, None], x.shape)
    np.testing.assert_allclose(np.asarray(y)[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)
    # 4000 draws: four standard deviations are 0.027.
    assert abs(dropped.mean() - 0.25) < 0.028
    assert not (dropped == dropped[0]).all()  # each example has its own


def test_dropout_is_off_outside_training_and_at_rate_0():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 8))
    np.testing.assert_array_equal(ChannelDropout(0.5).apply({}, x, train=False), x)
    np.testing.assert_array_equal(ChannelDropout(0.0).apply({}, x, train=True), x)
    once, again = (ChannelDropout(0.5).apply({}, x, train=True, rngs=RNG) for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_dropout_under_a_mapped_axis_is_the_one_device_s():
    x = jax.random.normal(jax.random.key(0), (8, 2, 2, 16))
    expected = ChannelDropout(0.5).apply({}, x, train=True, rngs=RNG)

    def on_one_slice(rows):
        return ChannelDropout(0.5, "devices").apply({}, rows, train=True, rngs=RNG)

    spread = jax.vmap(on_one_slice, axis_name="devices")(x.reshape(4, 2, 2, 2, 16))
    np.testing.assert_array_equal(spread.reshape(x.shape), expected)


def test_dropout_keeps_bfloat16():
    x = jnp.ones((2, 2, 2, 4), jnp.bfloat16)
    assert ChannelDropout(0.1).apply({}, x, train=True, rngs=RNG).dtype == jnp.bfloat16


def apply(head, c4, params, train=False):
    return head.apply({"params": params}, c4, train, rngs=RNG)


@pytest.fixture
def c4():
    return np.random.default_rng(0).normal(size=(2, 3, 5, 8))


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_straight_on_c4_without_modules(c4, fusion):
    """Both branches are then c4 itself, so the logits are one product."""
    head = DualPoolHead(3, 0, fusion, "none", "none", dropout=0.0, dtype=jnp.float64)
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
    head = DualPoolHead(3, 0, spatial=spatial, channel=channel, dropout=0.0)
    c4 = jnp.asarray(c4, jnp.float32)
    params = random_variables(head, c4, True)["params"]
    module = {"lambda": "spa", "mu": "cpa"}[name]
    run = jax.jit(lambda params: apply(head, c4, params, train=True))
    at_start, after = (run({**params, module: {name: jnp.asarray(value)}}) for value in (0.0, 1.0))
    changed = {key for key in after if not np.allclose(after[key], at_start[key])}
    assert changed == {"logits", "spatial" if name == "lambda" else "channel"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fusion": "product"}, "fusion='product': choose one of concat, sum"),
        ({"spatial": "pam"}, "spatial='pam': choose one of spa, nonlocal, none"),
        ({"channel": "cam"}, "channel='cam': choose one of cpa, none"),
    ],
)
def test_a_bad_option_is_one_clear_line(options, message):
    x = jnp.ones((1, 2, 2, 8))
    with pytest.raises(ValueError) as error:
        jax.eval_shape(lambda: DualPoolHead(3, 0, **options).init(KEYS, x, True))
    assert str(error.value) == message


@pytest.mark.parametrize("head", [DualPoolHead(19, 64), FCNHead(19)])
def test_classifiers_start_as_pytorch_s_convolutions(head):
    """Uniform within ±1/√fan_in, so that the first logits are small; biases 0."""
    x = jnp.ones((1, 2, 2, 64))
    params = jax.jit(lambda: head.init(KEYS, x, True))()["params"]
    kernels = [leaf for path, leaf in jax.tree.leaves_with_path(params) if path[-1].key == "kernel"]
    for kernel in kernels:
        bound = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
        assert 0.9 * bound < np.abs(kernel).max() <= bound
        assert abs(np.std(kernel) - bound / np.sqrt(3)) < 0.1 * bound
    assert not any(np.any(params[name]["bias"]) for name in params if "classifier" in name)
