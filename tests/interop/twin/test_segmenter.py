"""The twin as a whole: options, sizes, published checkpoints, multi-loss and prediction."""

import ast
import collections
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dpanet_jax import models  # noqa: E402
from dpanet_jax.interop import twin  # noqa: E402
from dpanet_jax.options import OptionError  # noqa: E402

TINY = {"backbone": "resnet18", "width": 4, "reduce_channels": 4}
TINY_FCN = {"backbone": "resnet18", "width": 4, "name": "fcn"}
BY_NAME = {"dpanet": TINY, "fcn": TINY_FCN}
WEIGHTS = {"fused": 1.0, "spatial": 1.0, "channel": 1.0, "auxiliary": 0.4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ["fcn", "dpanet"])
@pytest.mark.parametrize(
    "output_stride, main, auxiliary", [(8, (9, 6), (9, 6)), (16, (5, 3), (5, 3)), (32, (3, 2), (5, 3))]
)
def test_sizes_of_the_outputs(name, output_stride, main, auxiliary):
    model = twin.build(5, output_stride=output_stride, **BY_NAME[name])
    outputs = model(torch.randn(2, 3, 65, 47))
    heads = {"logits"} if name == "fcn" else {"logits", "spatial", "channel"}
    expected = {head: (2, 5, *main) for head in heads} | {"auxiliary": (2, 5, *auxiliary)}
    assert {head: tuple(value.shape) for head, value in outputs.items()} == expected
    model.eval()
    assert list(model(torch.randn(1, 3, 65, 47))) == ["logits"]


def test_one_forward_gives_stages_and_outputs():
    model = twin.build(3, dropout=0.0, **TINY).eval()
    images = torch.randn(1, 3, 33, 40)
    stages = model.stages(images)
    assert {name: tuple(value.shape) for name, value in stages.items()} == {
        "c1": (1, 4, 9, 10),
        "c2": (1, 8, 5, 5),
        "c3": (1, 16, 5, 5),
        "c4": (1, 32, 5, 5),
    }
    assert torch.equal(model.outputs(stages)["logits"], model(images)["logits"])


def test_without_auxiliary_head():
    model = twin.build(3, auxiliary=False, **TINY)
    assert not any(name.startswith("auxlayer") for name in model.state_dict())
    assert set(model(torch.randn(2, 3, 17, 17))) == {"logits", "spatial", "channel"}


def test_names_of_a_published_fcn():
    """PyTorch-Encoding's FCN: backbone, and two heads whose convolutions are 0 and 4 of a Sequential."""
    model = twin.build(3, **TINY_FCN)
    names = {name for name in model.state_dict() if not name.startswith("pretrained.")}
    of_bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = set()
    for head in ("head", "auxlayer"):
        expected |= {f"{head}.conv5.0.weight", f"{head}.conv5.4.weight", f"{head}.conv5.4.bias"}
        expected |= {f"{head}.conv5.1.{key}" for key in of_bn}
    assert names == expected
    assert model.head.conv5[0].weight.shape == (8, 32, 3, 3)
    assert model.auxlayer.conv5[0].weight.shape == (4, 16, 3, 3)


@pytest.mark.parametrize("name", ["fcn", "dpanet"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnest50"])
def test_published_checkpoints_load_strictly(name, backbone):
    source, target = (twin.build(3, **(BY_NAME[name] | {"backbone": backbone})) for _ in range(2))
    published = source.state_dict()  # keeps _metadata, by which PyTorch would ask for the counters
    assert isinstance(published, collections.OrderedDict)
    for key in [key for key in published if key.endswith("num_batches_tracked")]:
        del published[key]
    published["pretrained.fc.weight"], published["pretrained.fc.bias"] = torch.zeros(9, 4), torch.zeros(9)
    kept = set(published)
    target.load_state_dict(published, strict=True)
    assert set(published) == kept
    images = torch.randn(1, 3, 33, 33)
    source.eval(), target.eval()
    assert torch.equal(source(images)["logits"], target(images)["logits"])
    target.load_state_dict(dict(published), strict=True)
    with pytest.raises(RuntimeError, match="head.surplus"):
        target.load_state_dict(published | {"head.surplus": torch.zeros(1)}, strict=True)


def _axis_weights(size, small, align_corners):
    """(size, small): row i weighs the two neighbours of output i, whose centre lies between them."""
    weights = np.zeros((size, small))
    for i in range(size):
        if align_corners:
            at = i * (small - 1) / (size - 1)
        else:
            at = min(max((i + 0.5) * small / size - 0.5, 0), small - 1)
        low = min(int(np.floor(at)), small - 1)
        high = min(low + 1, small - 1)
        weights[i, low] += 1 - (at - low)
        weights[i, high] += at - low
    return weights


def _resize_numpy(logits, size, align_corners):
    rows = _axis_weights(size[0], logits.shape[2], align_corners)
    columns = _axis_weights(size[1], logits.shape[3], align_corners)
    return np.einsum("ih,bkhw,jw->bkij", rows, logits, columns)


def _cross_entropy_numpy(logits, labels, align_corners):
    logits = _resize_numpy(logits, labels.shape[1:], align_corners)
    losses = []
    for b, i, j in np.argwhere(labels != 255):
        pixel = logits[b, :, i, j]
        losses.append(np.log(np.exp(pixel).sum()) - pixel[labels[b, i, j]])
    return np.mean(losses)


@pytest.mark.parametrize("align_corners", [False, True])
def test_loss_and_resize(align_corners):
    rng = np.random.default_rng(0)
    model = twin.build(3, align_corners=align_corners, **TINY)
    sizes = {"logits": (3, 4), "spatial": (3, 4), "channel": (3, 4), "auxiliary": (5, 7)}
    outputs = {name: rng.normal(size=(2, 3, *size)) for name, size in sizes.items()}
    labels = rng.integers(0, 3, (2, 9, 11))
    labels[rng.random(labels.shape) < 0.3] = 255
    tensors = {name: torch.from_numpy(value).requires_grad_() for name, value in outputs.items()}
    resized = model.resize(tensors["logits"], (9, 11)).detach().numpy()
    expected = _resize_numpy(outputs["logits"], (9, 11), align_corners)
    np.testing.assert_allclose(resized, expected, rtol=1e-6, atol=1e-6)

    total, terms = model.loss(tensors, torch.from_numpy(labels), WEIGHTS)
    of_term = {"fused": "logits", "spatial": "spatial", "channel": "channel", "auxiliary": "auxiliary"}
    expected = {t: _cross_entropy_numpy(outputs[name], labels, align_corners) for t, name in of_term.items()}
    assert list(terms) == list(expected)
    for term, value in terms.items():
        np.testing.assert_allclose(float(value), expected[term], rtol=1e-6)
    weighted = sum(WEIGHTS[term] * value for term, value in expected.items())
    np.testing.assert_allclose(total.item(), weighted, rtol=1e-6)
    total.backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in tensors.values())


def test_terms_that_are_off_or_absent():
    model = twin.build(3, **TINY)
    logits, labels = torch.randn(1, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.int64)
    total, terms = model.loss({"logits": logits}, labels, WEIGHTS)
    assert list(terms) == ["fused"] and total == terms["fused"]
    both = {"logits": logits, "spatial": logits}
    assert list(model.loss(both, labels, {"fused": 0, "spatial": 2})[1]) == ["spatial"]
    with pytest.raises(ValueError, match="no term is left"):
        model.loss({"logits": logits}, labels, {"spatial": 1.0})
    with pytest.raises(ValueError, match="'fuse' is not a term"):
        model.loss({"logits": logits}, labels, {"fuse": 1.0})


def test_a_batch_without_valid_pixels_has_loss_and_gradient_0():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    total, _ = twin.build(3, **TINY).loss({"logits": logits}, torch.full((1, 8, 8), 255), {"fused": 1.0})
    total.backward()
    assert total == 0 and not logits.grad.any()


def test_predict():
    model = twin.build(3, dropout=0.5, **TINY)
    images = torch.randn(2, 3, 33, 20)
    before = model.pretrained.bn1.running_mean.clone()
    ids = model.predict(images, (33, 20))
    assert ids.shape == (2, 33, 20) and ids.dtype == torch.int64 and not ids.requires_grad
    assert model.training and torch.equal(model.pretrained.bn1.running_mean, before)
    model.eval()
    logits = _resize_numpy(model(images)["logits"].detach().double().numpy(), (33, 20), False)
    ordered = np.sort(logits, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-5
    assert clear.mean() > 0.9 and np.array_equal(ids.numpy()[clear], logits.argmax(axis=1)[clear])
    assert not model.predict(images, (4, 4)).is_floating_point() and not model.training


def test_batch_norm_keeps_pytorchs_running_variance():
    model = twin.build(2, **TINY)
    images = torch.randn(2, 3, 17, 17)
    features = model.pretrained.conv1(images).detach()
    model(images)
    expected = 0.9 + 0.1 * features.var(dim=(0, 2, 3), correction=1)
    torch.testing.assert_close(model.pretrained.bn1.running_var, expected)
    assert all(m.eps == 1e-5 for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"outputstride": 8}, ("did you mean output_stride",)),
        ({"name": "pspnet"}, ("name='pspnet'", "dpanet", "fcn")),
        ({"backbone": "vgg16"}, ("backbone='vgg16'", "resnet18", "resnest101")),
        ({"output_stride": 4}, ("output_stride=4", "8, 16, 32")),
        ({"spatial": "pam"}, ("spatial='pam'", "spa, nonlocal, none")),
        ({"align_corners": "yes"}, ("align_corners='yes'", "True or False")),
        ({"width": 0}, ("width=0", "at least 1")),
        ({"reduce_channels": -1}, ("reduce_channels=-1", "at least 0")),
        ({"dropout": 1.0}, ("dropout=1.0", "below 1")),
        ({"dropout": "a"}, ("dropout='a'", "number")),
        ({"multi_grid": (1, 2, 4)}, ("multi_grid=(1, 2, 4)", "2 blocks")),
        ({"multi_grid": 2}, ("multi_grid=2", "tuple")),
        ({"name": "fcn", "fusion": "sum"}, ("fusion='sum'", "name=fcn", "'concat'")),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(OptionError) as error:
        twin.build(3, **{"backbone": "resnet18", **options})
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)
    with pytest.raises(OptionError, match="num_classes=0"):
        twin.build(0, **TINY)


def test_defaults_are_the_models_own():
    with torch.device("meta"):
        model = twin.build(7)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes["pretrained.conv1.weight"] == (64, 3, 7, 7) and shapes["head.conv8.1.weight"][:2] == (
        7,
        1024,
    )
    assert not model.align_corners and model.head.conv6[0].p == 0.1
    assert set(model.terms) >= models.build(7).loss_terms().keys()


def test_a_network_without_a_twin_is_refused(monkeypatch):
    monkeypatch.setitem(models.HEADS, "mine", models.HEADS["fcn"])
    monkeypatch.setitem(models.BACKBONES, "mynet", models.BACKBONES["resnet18"])
    for options, words in (
        (
            {"name": "mine", "backbone": "resnet18"},
            "name='mine' has no PyTorch twin: choose one of dpanet, fcn",
        ),
        (
            {"name": "fcn", "backbone": "mynet"},
            "backbone='mynet' has no PyTorch twin: choose one of resnet18,",
        ),
    ):
        with pytest.raises(OptionError) as error:
            twin.require_twin(options)
        assert str(error.value).startswith(words)
    with pytest.raises(OptionError, match="has no PyTorch twin"):
        twin.build(3, name="mine", backbone="resnet18")
    assert twin.require_twin({}) is None


def test_options_that_do_not_concern_pytorch_are_taken():
    ignored = {"dtype": "bfloat16", "param_dtype": "float32", "axis_name": None, "remat": True}
    ignored["dilated_as_batch"] = True
    model = twin.build(3, **TINY, **ignored, bn_variance="biased", pretrained="", pretrained_missing=())
    assert model(torch.randn(2, 3, 9, 9))["logits"].dtype == torch.float32
    model = twin.build(3, **(TINY | {"reduce_channels": None, "multi_grid": None}))
    assert model.head.conv8[1].weight.shape == (3, 64, 1, 1)


def test_nothing_else_needs_torch():
    lines = "import sys, dpanet_jax.interop.torch\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", lines], check=True, timeout=120)


def test_what_the_twin_computes_is_its_own():
    """Its modules import nothing of the networks that they are compared with, nor JAX."""
    imported = {}
    for path in Path(twin.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [n.module for n in nodes if isinstance(n, ast.ImportFrom)]
        names += [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
        imported[path.stem] = {name for name in names if not name.startswith("dpanet_jax.interop.twin")}
    known = {"torch", "torch.nn", "typing", "collections.abc", "dpanet_jax.data.classes"}
    assert len(imported) == 5
    for name in ("heads", "optimizer", "resnet", "segmenter"):
        assert imported[name] <= known, name
