"""The twin's backbones: published counts and names, and the arithmetic against NumPy and a second ResNet."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dpanet_jax.interop.twin.resnet import ResNet, SplitAttention, SplitBlock  # noqa: E402

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
PUBLISHED = {  # parameters with the classifier of 1000 classes
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnest50": 27_483_240,
    "resnest101": 48_275_016,
}


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_counts_are_the_published_ones(architecture):
    with torch.device("meta"):
        network = ResNet(architecture)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count + 1000 * network.channels[-1] + 1000 == PUBLISHED[architecture]


def _bn(*names):
    return {f"{name}.{key}" for name in names for key in BN}


def _block_names(convs, bns, shortcut):
    """Names of a stage's blocks from those of one, with the shortcut of its first block."""

    def names(stage, blocks, has_shortcut=True):
        found = set()
        for i in range(blocks):
            prefix = f"layer{stage}.{i}."
            found |= {f"{prefix}{name}.weight" for name in convs} | {prefix + name for name in _bn(*bns)}
        if has_shortcut:
            conv, bn = shortcut
            found |= {f"layer{stage}.0.downsample.{conv}.weight"} | _bn(f"layer{stage}.0.downsample.{bn}")
        return found

    return names


PLAIN_STEM = {"conv1.weight"} | _bn("bn1")
DEEP_STEM = {"conv1.0.weight", "conv1.3.weight", "conv1.6.weight"} | _bn("conv1.1", "conv1.4", "bn1")


def _published_names(architecture, stem):
    if architecture == "resnet18":
        of_stage = _block_names(("conv1", "conv2"), ("bn1", "bn2"), (0, 1))
        return PLAIN_STEM.union(*(of_stage(stage, 2, stage > 1) for stage in (1, 2, 3, 4)))
    depths = enumerate((3, 4, 6, 3), start=1)
    if architecture == "resnet50":
        of_stage = _block_names(("conv1", "conv2", "conv3"), ("bn1", "bn2", "bn3"), (0, 1))
        names = PLAIN_STEM if stem == "plain" else DEEP_STEM
        return names.union(*(of_stage(stage, depth) for stage, depth in depths))
    convs = ("conv1", "conv2.conv", "conv2.fc1", "conv2.fc2", "conv3")
    of_stage = _block_names(convs, ("bn1", "conv2.bn0", "conv2.bn1", "bn3"), (1, 2))
    names = DEEP_STEM.union(*(of_stage(stage, depth) for stage, depth in depths))
    return names | {name.replace("weight", "bias") for name in names if ".fc" in name}


@pytest.mark.parametrize(
    "architecture, stem",
    [("resnet18", "plain"), ("resnet50", "plain"), ("resnet50", "deep"), ("resnest50", "")],
)
def test_names_are_the_published_ones(architecture, stem):
    network = ResNet(architecture, stem=stem or "plain", width=4)
    assert set(network.state_dict()) == _published_names(architecture, stem)


def test_shapes_of_the_stems():
    with torch.device("meta"):
        shapes = {
            name: [tuple(network.conv1[i].weight.shape) for i in (0, 3, 6)]
            for name in ("resnet50", "resnest50", "resnest101")
            if (network := ResNet(name, stem="deep"))
        }
    wide = [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)]
    narrow = [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3)]
    assert shapes == {"resnet50": wide, "resnest50": narrow, "resnest101": wide}


def test_a_classifier_is_dropped_on_load():
    network = ResNet("resnet18", width=4)
    state_dict = network.state_dict() | {"fc.weight": torch.zeros(10, 32), "fc.bias": torch.zeros(10)}
    state_dict["bn1.weight"] = torch.full((4,), 3.0)
    network.load_state_dict(state_dict, strict=True)
    assert network.bn1.weight.tolist() == [3, 3, 3, 3]
    with pytest.raises(RuntimeError, match="other"):
        network.load_state_dict(state_dict | {"other": torch.zeros(1)}, strict=True)


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet18", {}),
        ("resnet18", {"output_stride": 8, "multi_grid": (2, 4)}),
        ("resnet50", {"stem": "deep", "output_stride": 8, "multi_grid": (4, 8, 16)}),
        ("resnet50", {"output_stride": 16}),
    ],
)
def test_stages_are_those_of_another_resnet(torch_resnet, name, options):
    reference = torch_resnet(name, **options)
    network = ResNet(name, width=4, **options).eval()
    network.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(1, 3, 25, 42)
    with torch.no_grad():
        found, expected = network(images), reference(images)
    for stage in ("c1", "c2", "c3", "c4"):
        torch.testing.assert_close(found[stage], expected[stage])


@pytest.mark.parametrize("output_stride, sizes", [(8, (5, 5, 5)), (16, (5, 3, 3)), (32, (5, 3, 2))])
def test_resnest_keeps_its_size_where_it_is_dilated(output_stride, sizes):
    network = ResNet("resnest50", width=4, output_stride=output_stride).eval()
    stages = network(torch.zeros(1, 3, 33, 23))
    assert tuple(stages[name].shape[2] for name in ("c2", "c3", "c4")) == sizes
    dilations = {8: (1, 2, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}[output_stride]
    blocks = (network.layer3[0], network.layer3[1], network.layer4[0], network.layer4[1])
    assert tuple(block.conv2.conv.dilation[0] for block in blocks) == dilations
    pooled = [isinstance(block.pool, torch.nn.AvgPool2d) for block in (network.layer1[0], *blocks)]
    assert pooled == [False, True, False, True, False]


def _randomized(module):
    """The module in float64 and evaluation mode, its vectors moved from where they start."""
    torch.manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 1:
            tensor.data = 0.5 + torch.rand(tensor.shape)
    return module.double().eval()


def _array(tensor):
    return tensor.detach().numpy()


def _bn_numpy(x, bn):
    mean, var, weight, bias = (
        _array(value)[:, None, None] for value in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def _conv1x1_numpy(x, conv):
    y = np.einsum("oi,bihw->bohw", _array(conv.weight)[:, :, 0, 0], x)
    return y if conv.bias is None else y + _array(conv.bias)[:, None, None]


def _conv3x3_numpy(x, weight, dilation):
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (dilation, dilation), (dilation, dilation)))
    return sum(
        np.einsum(
            "oi,bihw->bohw",
            weight[:, :, i, j],
            padded[:, :, i * dilation : i * dilation + height, j * dilation : j * dilation + width],
        )
        for i in range(3)
        for j in range(3)
    )


def _split_attention_numpy(x, module, dilation):
    weight, channels = _array(module.conv.weight), x.shape[1]
    halves = [
        _conv3x3_numpy(half, kernel, dilation)
        for half, kernel in zip(np.split(x, 2, axis=1), np.split(weight, 2), strict=True)
    ]
    splits = np.maximum(_bn_numpy(np.concatenate(halves, axis=1), module.bn0), 0)
    first, second = splits[:, :channels], splits[:, channels:]
    mean = (first + second).mean(axis=(2, 3), keepdims=True)
    hidden = np.maximum(_bn_numpy(_conv1x1_numpy(mean, module.fc1), module.bn1), 0)
    logits = _conv1x1_numpy(hidden, module.fc2)
    share = 1 / (1 + np.exp(logits[:, channels:] - logits[:, :channels]))
    return share * first + (1 - share) * second


@pytest.mark.parametrize("dilation", [1, 2])
def test_split_attention(dilation):
    module = _randomized(SplitAttention(6, dilation))
    assert module.fc1.out_channels == 32 and SplitAttention(128, 1).fc1.out_channels == 64
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    expected = _split_attention_numpy(_array(x), module, dilation)
    np.testing.assert_allclose(_array(module(x)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride, dilation, pooled", [(2, 1, True), (1, 2, True), (1, 1, False)])
def test_resnest_block(stride, dilation, pooled):
    """conv1 → split attention → pool with its padding counted → conv3; the shortcut's padding is not."""
    block = _randomized(SplitBlock(6, 4, stride, dilation, pooled))
    x = torch.randn(1, 6, 5, 8, dtype=torch.float64)
    y = np.maximum(_bn_numpy(_conv1x1_numpy(_array(x), block.conv1), block.bn1), 0)
    y = _split_attention_numpy(y, block.conv2, dilation)
    if pooled:
        box = np.full((y.shape[1], y.shape[1], 3, 3), 1 / 9) * np.eye(y.shape[1])[:, :, None, None]
        y = _conv3x3_numpy(y, box, 1)[:, :, ::stride, ::stride]
    y = _bn_numpy(_conv1x1_numpy(y, block.conv3), block.bn3)
    shortcut = _array(x)
    if stride == 2:  # The last row stands alone: a mean over what there is.
        rows = np.concatenate([shortcut, shortcut[:, :, -1:]], axis=2)
        shortcut = rows.reshape(1, 6, 3, 2, 4, 2).mean(axis=(3, 5))
    shortcut = _bn_numpy(_conv1x1_numpy(shortcut, block.downsample[1]), block.downsample[2])
    np.testing.assert_allclose(_array(block(x)), np.maximum(y + shortcut, 0), rtol=1e-12, atol=1e-12)


def test_an_odd_width_has_no_splits():
    with pytest.raises(ValueError, match="width=5"):
        ResNet("resnest50", width=5)
