"""Other projects' networks, written plainly in PyTorch with their published names: they compute the same."""

import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax import models
from dpanet_jax.interop import torch as torch_weights
from dpanet_jax.interop.errors import WeightsError
from dpanet_jax.models.resize import resize_bilinear as resize
from dpanet_jax.models.segmenter import init_variables

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

IMAGES = np.random.default_rng(0).normal(size=(2, 45, 61, 3))


def build(classes=3, **options):
    defaults = {"name": "fcn", "backbone": "resnet50", "width": 4, "output_stride": 8}
    return models.build(classes, **{**defaults, **options})


def start(model, value=0.0):
    shapes = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), shapes)


def moved(network):
    """The network with batch norms that are off their start."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 1:
            tensor.data = 1 + 0.3 * torch.rand_like(tensor)
    return network.eval()


def saved(network, path):
    torch.save(network.state_dict(), path)
    return path


class TorchvisionFCN(nn.Module):
    """torchvision's fcn_resnet50 and fcn_resnet101: {"out", "aux"} at the image's size."""

    def __init__(self, backbone, channels, classes=3, auxiliary=True):
        super().__init__()
        self.backbone = backbone
        self.classifier = self.head(channels, classes)
        self.aux_classifier = self.head(channels // 2, classes) if auxiliary else None

    @staticmethod
    def head(channels, classes):
        inner = channels // 4
        return nn.Sequential(
            nn.Conv2d(channels, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(inner, classes, 1),
        )

    def forward(self, x):
        stages = self.backbone(x)
        out = {"out": self.classifier(stages["c4"])}
        if self.aux_classifier is not None:
            out["aux"] = self.aux_classifier(stages["c3"])
        return {
            name: nn.functional.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
            for name, y in out.items()
        }


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class MMSegHead(nn.Module):
    """mmsegmentation's FCNHead."""

    def __init__(self, channels, classes, num_convs=1, concat_input=False):
        super().__init__()
        inner = channels // 4
        self.conv_seg = nn.Conv2d(inner, classes, 1)
        convs = [ConvModule(channels if i == 0 else inner, inner) for i in range(num_convs)]
        self.convs = nn.Sequential(*convs)
        if concat_input:
            self.conv_cat = ConvModule(channels + inner, inner)

    def forward(self, x):
        y = self.convs(x)
        if hasattr(self, "conv_cat"):
            y = self.conv_cat(torch.cat([x, y], dim=1))
        return self.conv_seg(y)


class MMSegFCN(nn.Module):
    def __init__(self, backbone, channels, classes=3, **head):
        super().__init__()
        self.backbone = backbone
        self.decode_head = MMSegHead(channels, classes, **head)
        self.auxiliary_head = MMSegHead(channels // 2, classes)

    def forward(self, x):
        stages = self.backbone(x)
        return {"out": self.decode_head(stages["c4"]), "aux": self.auxiliary_head(stages["c3"])}


class TransformersResNet(nn.Module):
    """transformers' ResNetForImageClassification, of bottlenecks, (3, 4, 6, 3): its four stages."""

    class Layer(nn.Module):
        def __init__(self, inputs, outputs, size, stride=1):
            super().__init__()
            self.convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
            self.normalization = nn.BatchNorm2d(outputs)

        def forward(self, x):
            return self.normalization(self.convolution(x))

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            inner, layer = outputs // 4, TransformersResNet.Layer
            self.shortcut = nn.Identity()
            if stride != 1 or inputs != outputs:
                self.shortcut = layer(inputs, outputs, 1, stride)
            self.layer = nn.Sequential(
                layer(inputs, inner, 1), layer(inner, inner, 3, stride), layer(inner, outputs, 1)
            )

        def forward(self, x):
            first, second, third = self.layer
            y = third(torch.relu(second(torch.relu(first(x)))))
            return torch.relu(y + self.shortcut(x))

    def __init__(self, width=4):
        super().__init__()
        self.resnet = nn.Module()
        self.resnet.embedder = nn.Module()
        self.resnet.embedder.embedder = self.Layer(3, width, 7, 2)
        self.resnet.encoder = nn.Module()
        stages, channels = [], width
        for i, depth in enumerate((3, 4, 6, 3)):
            stage, outputs = nn.Module(), 4 * width * 2**i
            strides = [1 if i == 0 or j > 0 else 2 for j in range(depth)]
            blocks = [self.Block(channels if j == 0 else outputs, outputs, s) for j, s in enumerate(strides)]
            stage.layers, channels = nn.Sequential(*blocks), outputs
            stages.append(stage)
        self.resnet.encoder.stages = nn.ModuleList(stages)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(channels, 10))

    def forward(self, x):
        x = torch.relu(self.resnet.embedder.embedder(x))
        x, outputs = nn.functional.max_pool2d(x, 3, 2, 1), {}
        for i, stage in enumerate(self.resnet.encoder.stages):
            outputs[f"c{i + 1}"] = x = stage.layers(x)
        return outputs


def reference(network):
    with torch.no_grad():
        outputs = network.double()(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    return {name: value.permute(0, 2, 3, 1).numpy() for name, value in outputs.items()}


def assert_close(ours, theirs):
    scale = np.abs(theirs).max()
    assert ours.dtype == np.float64 and scale > 0.05
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-9)


def computed(model, path, train=False, **options):
    """The outputs in float64 of a model with the weights of a file."""
    variables = torch_weights.load(path, start(model), **options)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
    run = jax.jit(lambda v, x: model.apply(v, x, train, with_stages=True, mutable=["batch_stats"])[0])
    return jax.device_get(run(variables, jnp.asarray(IMAGES)))


def test_torchvisions_fcn_computes_the_same(torch_resnet, tmp_path, capsys):
    """In evaluation the logits, enlarged as there; in training the auxiliary ones too."""
    network = moved(TorchvisionFCN(torch_resnet("resnet50", output_stride=8), 128))
    path = saved(network, tmp_path / "fcn_resnet50_coco.pth")
    with jax.enable_x64(True):
        model = build(dtype="float64", dropout=0.0)
        logits = computed(model, path, whole=True)["logits"]
        enlarged = jax.device_get(resize(jnp.asarray(logits), IMAGES.shape[1:3], model.align_corners))
        assert_close(enlarged, reference(network)["out"])
        ours = computed(model, path, train=True)
        network.train()
        network.classifier[3].p = network.aux_classifier[3].p = 0.0
        theirs = reference(network)
        for name, output in (("logits", "out"), ("auxiliary", "aux")):
            enlarged = jax.device_get(resize(jnp.asarray(ours[name]), IMAGES.shape[1:3], False))
            assert_close(enlarged, theirs[output])
    assert capsys.readouterr().out == ""  # nothing was left out


@pytest.mark.parametrize("stem", ["plain", "v1c"])
def test_mmsegmentations_fcn_computes_the_same(torch_resnet, tmp_path, stem):
    """Its head of one convolution, as `num_convs=1, concat_input=False` makes it."""
    network = moved(MMSegFCN(torch_resnet("resnet50", output_stride=8, stem=stem), 128))
    path = tmp_path / "fcn_r50-d8.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": network.state_dict()}, path)
    with jax.enable_x64(True):
        model = build(dtype="float64", stem=stem)
        assert_close(computed(model, path, whole=True)["logits"], reference(network)["out"])


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
@pytest.mark.parametrize("project", [TorchvisionFCN, MMSegFCN])
def test_every_array_has_its_place(torch_resnet, tmp_path, backbone, project):
    network = moved(project(torch_resnet(backbone, width=2, output_stride=8), 64))
    path = saved(network, tmp_path / "weights.pth")
    model = build(backbone=backbone, width=2)
    loaded = torch_weights.to_state_dict(torch_weights.load(path, start(model), whole=True))
    theirs = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(loaded) == len(theirs)
    in_order = sorted(float(value.double().sum()) for value in theirs.values())
    np.testing.assert_allclose(sorted(value.astype(float).sum() for value in loaded.values()), in_order)


def test_mmsegmentations_usual_head_gives_its_backbone(torch_resnet, tmp_path, capsys):
    """Two convolutions and a third over both: no module here is such a one."""
    head = {"num_convs": 2, "concat_input": True}
    network = moved(MMSegFCN(torch_resnet("resnet50", output_stride=8, stem="v1c"), 128, **head))
    path = saved(network, tmp_path / "fcn_r50-d8.pth")
    with jax.enable_x64(True):
        model = build(dtype="float64", stem="v1c")
        ours, theirs = computed(model, path), reference(network.backbone)
        for stage in ("c1", "c2", "c3", "c4"):
            assert_close(ours[stage], theirs[stage])
    out = capsys.readouterr().out
    assert out == (
        f"{path}: the backbone, under 'backbone.', was taken; left out: auxiliary_head.*, decode_head.* "
        "(24 arrays)\n"
    )
    with pytest.raises(WeightsError, match="holds the backbone alone .*left out: auxiliary_head"):
        torch_weights.load(path, start(build(stem="v1c")), whole=True)


def test_transformers_resnet_computes_the_same(tmp_path, capsys):
    network = moved(TransformersResNet())
    path = saved(network, tmp_path / "pytorch_model.bin")
    with jax.enable_x64(True):
        ours = computed(build(dtype="float64", output_stride=32), path)
    theirs = reference(network)
    for stage in ("c1", "c2", "c3", "c4"):
        assert_close(ours[stage], theirs[stage])
    assert "left out: classifier.* (2 arrays)" in capsys.readouterr().out


def test_torchvisions_fcn_in_another_network(torch_resnet, tmp_path, capsys):
    """A DPANet gets the backbone; its own head keeps its start."""
    network = moved(TorchvisionFCN(torch_resnet("resnet18", width=8), 64, classes=21))
    path = saved(network, tmp_path / "weights.pth")
    model = build(name="dpanet", backbone="resnet18", width=8, reduce_channels=16)
    loaded = torch_weights.load(path, start(model, 7.0))
    assert all((leaf == 7).all() for leaf in jax.tree.leaves(loaded["params"]["head"]))
    backbone = torch_weights.to_state_dict(loaded, backbone_only=True)
    for name, value in network.backbone.state_dict().items():
        if "num_batches" not in name:
            np.testing.assert_array_equal(backbone[name], value.numpy())
    assert "left out: aux_classifier.*, classifier.* (14 arrays)" in capsys.readouterr().out


def test_torchvisions_fcn_of_another_number_of_classes(torch_resnet, tmp_path):
    """The message names both numbers and the option, and the advice works to the letter."""
    network = moved(TorchvisionFCN(torch_resnet("resnet18", width=8), 64, classes=21))
    path = saved(network, tmp_path / "weights.pth")
    model = build(backbone="resnet18", width=8)
    with pytest.raises(WeightsError, match="the file is for 21 classes and the model for 3") as error:
        torch_weights.load(path, start(model))
    (flag,) = [w for w in shlex.split(str(error.value).replace("'s", "s")) if "pretrained_missing" in w]
    patterns = eval(flag.partition("=")[2])
    assert patterns == ("auxlayer.conv5.4.*", "head.conv5.4.*")
    loaded = torch_weights.load(path, start(model, 7.0), patterns)
    head = loaded["params"]["head"]
    assert (head["classifier"]["kernel"] == 7).all() and (head["classifier"]["bias"] == 7).all()
    theirs = network.classifier[0].weight.detach().permute(2, 3, 1, 0).numpy()
    np.testing.assert_array_equal(head["conv"]["kernel"], theirs)


def test_torchvisions_fcn_without_its_auxiliary_head(torch_resnet, tmp_path):
    network = moved(TorchvisionFCN(torch_resnet("resnet18", width=8), 64, auxiliary=False))
    path = saved(network, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="no auxiliary head: give --config.model.auxiliary=False"):
        torch_weights.load(path, start(build(backbone="resnet18", width=8)))
    torch_weights.load(path, start(build(backbone="resnet18", width=8, auxiliary=False)), whole=True)


def test_mmsegmentations_small_networks_differ_in_dilation(torch_resnet, tmp_path, capsys):
    network = moved(MMSegFCN(torch_resnet("resnet18", width=8), 64))
    path = saved(network, tmp_path / "weights.pth")
    torch_weights.load(path, start(build(backbone="resnet18", width=8)), whole=True)
    assert "does not dilate the second convolution" in capsys.readouterr().out
