"""The twin's attention modules and heads against plain NumPy."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dpanet_jax.interop.twin.heads import (  # noqa: E402
    ChannelPoolAttention,
    DPANetHead,
    FCNHead,
    NonLocal,
    SpatialPoolAttention,
)

EVEN, ODD = (1, 4, 8, 10, 12), (1, 5, 7, 9, 13)
HEAD = {
    "reduce_channels": 4, "fusion": "concat", "spatial": "spa", "channel": "cpa",
    "pool_sizes": "mixed", "qkv": "identity", "pool": "avg", "affinity": "subtract",
}  # fmt: skip


def _features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _pyramid_numpy(x, sizes, reduce):
    """(C, H, W) → (T, C), every bin from floor(i S / n) to ceil((i + 1) S / n)."""
    (height, width), rows = x.shape[1:], []
    for n in sizes:
        for i in range(n):
            for j in range(n):
                rows.append(
                    reduce(
                        x[
                            :,
                            i * height // n : -(-(i + 1) * height // n),
                            j * width // n : -(-(j + 1) * width // n),
                        ],
                        axis=(1, 2),
                    )
                )
    return np.stack(rows)


def _conv_numpy(x, conv):
    weight, bias = conv.weight.detach().numpy()[:, :, 0, 0], conv.bias.detach().numpy()
    return np.einsum("oi,ihw->ohw", weight, x) + bias[:, None, None]


@pytest.mark.parametrize(
    "pool_sizes, keys, values", [("mixed", EVEN, ODD), ("even", EVEN, EVEN), ("odd", ODD, ODD)]
)
@pytest.mark.parametrize("pool, conv", [("avg", False), ("max", True)])
def test_spatial_pool_attention(pool_sizes, keys, values, pool, conv):
    module = SpatialPoolAttention(3, pool_sizes, pool, conv).double()
    module.gamma.data.fill_(0.7)
    x = _features(2, 3, 6, 11)
    reduce = np.mean if pool == "avg" else np.max
    expected = []
    for image in x:
        q, k, v = image, image, image
        if conv:
            q, k, v = (
                _conv_numpy(image, getattr(module, f"{name}_conv")) for name in ("query", "key", "value")
            )
        query = q.reshape(3, -1).T
        key, value = _pyramid_numpy(k, keys, reduce), _pyramid_numpy(v, values, reduce)
        assert key.shape == value.shape == (325, 3)
        out = _softmax(query @ key.T) @ value  # (N, C)
        expected.append(0.7 * out.T.reshape(image.shape) + image)
    found = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("affinity", ["subtract", "square"])
def test_channel_pool_attention(affinity):
    module = ChannelPoolAttention(affinity).double()
    module.gamma.data.fill_(-0.4)
    x = _features(2, 5, 3, 4)
    expected = []
    for image in x:
        features = image.reshape(5, -1)
        product = features @ features.T
        energy = product.max(axis=1, keepdims=True) - product
        attention = _softmax(energy if affinity == "subtract" else energy * energy)
        expected.append(-0.4 * (attention @ features).reshape(image.shape) + image)
    found = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-12, atol=1e-12)


def test_non_local():
    module = NonLocal(16).double()
    x = _features(2, 16, 3, 4)
    assert np.array_equal(module(torch.from_numpy(x)).detach().numpy(), x)
    torch.nn.init.normal_(module.output_conv.weight)
    torch.nn.init.normal_(module.output_conv.bias)
    expected = []
    for image in x:
        alpha = _conv_numpy(image, module.query_key_conv).reshape(2, -1)
        value = _conv_numpy(image, module.value_conv).reshape(2, -1)
        out = _softmax(alpha.T @ alpha) @ value.T  # (N, C / 8)
        expected.append(_conv_numpy(out.T.reshape(2, 3, 4), module.output_conv) + image)
    found = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-12, atol=1e-12)
    assert NonLocal(4).query_key_conv.out_channels == 1
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == {
        "query_key_conv.weight": (2, 16, 1, 1),
        "query_key_conv.bias": (2,),
        "value_conv.weight": (2, 16, 1, 1),
        "value_conv.bias": (2,),
        "output_conv.weight": (16, 2, 1, 1),
        "output_conv.bias": (16,),
    }


def test_modules_start_as_the_identity():
    x = torch.from_numpy(_features(1, 4, 3, 5)).float()
    for module in (SpatialPoolAttention(4), ChannelPoolAttention()):
        assert module.gamma.shape == (1,) and torch.equal(module(x), x)


def _shapes(module):
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def test_names_and_shapes_of_danets_head():
    """DANet's published names; gamma is all that the two modules have."""
    expected = {"sa.gamma": (1,), "sc.gamma": (1,)}
    for name, inputs in (("conv5a", 8), ("conv5c", 8), ("conv51", 4), ("conv52", 4)):
        expected |= {f"{name}.0.weight": (4, inputs, 3, 3), f"{name}.1.weight": (4,), f"{name}.1.bias": (4,)}
    for name, inputs in (("conv6", 4), ("conv7", 4), ("conv8", 8)):
        expected |= {f"{name}.1.weight": (3, inputs, 1, 1), f"{name}.1.bias": (3,)}
    assert _shapes(DPANetHead(8, 3, 0.1, **HEAD)) == expected

    summed = _shapes(DPANetHead(8, 3, 0.1, **(HEAD | {"fusion": "sum"})))
    assert summed == expected | {"conv8.1.weight": (3, 4, 1, 1)}

    convs = {f"sa.{name}_conv.weight": (4, 4, 1, 1) for name in ("query", "key", "value")}
    convs |= {f"sa.{name}_conv.bias": (4,) for name in ("query", "key", "value")}
    assert _shapes(DPANetHead(8, 3, 0.1, **(HEAD | {"qkv": "conv"}))) == expected | convs

    bare = HEAD | {"reduce_channels": 0, "spatial": "none", "channel": "none"}
    assert _shapes(DPANetHead(8, 3, 0.1, **bare)) == {
        "conv6.1.weight": (3, 8, 1, 1),
        "conv6.1.bias": (3,),
        "conv7.1.weight": (3, 8, 1, 1),
        "conv7.1.bias": (3,),
        "conv8.1.weight": (3, 16, 1, 1),
        "conv8.1.bias": (3,),
    }


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_branches_and_fusion(fusion):
    """Straight on the input each classifier sees its own module's result, and conv8 both, spatial first."""
    head = DPANetHead(3, 2, 0.0, **(HEAD | {"reduce_channels": 0, "fusion": fusion})).double()
    head.sa.gamma.data.fill_(0.5)
    head.sc.gamma.data.fill_(0.25)
    x = torch.from_numpy(_features(1, 3, 4, 6))
    outputs = head(x)
    spatial, channel = (module(x).detach().numpy()[0] for module in (head.sa, head.sc))
    fused = np.concatenate([spatial, channel]) if fusion == "concat" else spatial + channel
    for name, conv, features in (
        ("spatial", head.conv6[1], spatial),
        ("channel", head.conv7[1], channel),
        ("logits", head.conv8[1], fused),
    ):
        expected = _conv_numpy(features, conv)
        np.testing.assert_allclose(outputs[name].detach().numpy()[0], expected, rtol=1e-12, atol=1e-12)
    evaluated = head.eval()(x)
    assert list(evaluated) == ["logits"] and torch.equal(evaluated["logits"], outputs["logits"])


def test_branches_pass_their_convolutions():
    """Each branch's convolutions are its own: another conv51 moves the spatial and fused logits alone."""
    torch.manual_seed(0)
    head = DPANetHead(8, 3, 0.0, **HEAD)
    x = torch.randn(2, 8, 5, 5)
    before = head(x)
    for branch, moved in (
        ("conv5a", "spatial"),
        ("conv51", "spatial"),
        ("conv5c", "channel"),
        ("conv52", "channel"),
    ):
        torch.nn.init.normal_(getattr(head, branch)[0].weight)
        after = head(x)
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert changed == {"logits", moved}
        before = after


def test_dropout_drops_whole_channels_in_training_only():
    head = FCNHead(16, 2, 0.5)
    assert {name for name in head.state_dict() if "running" not in name and "num" not in name} == {
        "conv5.0.weight",
        "conv5.1.weight",
        "conv5.1.bias",
        "conv5.4.weight",
        "conv5.4.bias",
    }
    torch.manual_seed(0)
    dropped = head.conv5[3](torch.ones(4, 8, 3, 3))
    assert set(dropped.amax(dim=(2, 3)).flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped.amin(dim=(2, 3)), dropped.amax(dim=(2, 3)))
    head.eval()
    x = torch.randn(1, 16, 3, 3)
    assert torch.equal(head(x)["logits"], head(x)["logits"])
