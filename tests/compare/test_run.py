"""The comparison end to end on `streets`, small: parity itself, and that it notices what is wrong."""

import dataclasses
import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from safetensors.numpy import load_file, save_file  # noqa: E402

from dpanet_jax import __main__ as command_line  # noqa: E402
from dpanet_jax import models  # noqa: E402
from dpanet_jax.compare import run, torch_side  # noqa: E402
from dpanet_jax.compare.measured import Recipe  # noqa: E402
from dpanet_jax.config import ConfigError  # noqa: E402
from dpanet_jax.errors import UsageError  # noqa: E402
from dpanet_jax.evaluation import protocols  # noqa: E402
from dpanet_jax.interop import names  # noqa: E402
from dpanet_jax.interop import twin as twin_lib  # noqa: E402
from dpanet_jax.interop.files import WeightsError  # noqa: E402
from dpanet_jax.interop.torch import fit  # noqa: E402
from dpanet_jax.training.options import Optimizer  # noqa: E402


@pytest.fixture
def small_config(tiny_config):
    """A function: options of the model → a config whose crops are smaller still, and no stride divides."""

    def make(**options):
        config = tiny_config()
        config.data.crop_size = (41, 51)
        config.training.batch_size = 2
        config.model.width = 4
        config.model.output_stride = 8
        config.training.steps = 20
        config.model.update(options)
        if config.model.name == "fcn":
            config.model.reduce_channels = 512  # its default: an FCN has no branches
        if config.model.backbone.startswith("resnest"):
            # Its batch norm over one value an image is ill-conditioned with a few images.
            config.training.batch_size = 8
        return config

    return make


def in_float64(config, output, weights="random", steps=3):
    return run.run(config, weights, output, steps=steps, precisions=("float64",), max_images=-1)


# Between them every family of backbone and every option of the head.
NETWORKS = {
    "resnet101": {"backbone": "resnet101", "align_corners": True, "pool_sizes": "even"},
    "resnest101": {"backbone": "resnest101", "multi_grid": (4, 8, 16)},
    "resnest50 at 16": {"backbone": "resnest50", "output_stride": 16, "name": "fcn", "auxiliary": False},
    "deep": {"stem": "deep", "name": "fcn", "align_corners": True},
    "qkv": {"qkv": "conv", "pool": "max", "affinity": "square", "fusion": "sum", "pool_sizes": "odd"},
    "nonlocal": {"spatial": "nonlocal", "channel": "none", "reduce_channels": 0},
    "c4": {"spatial": "none", "reduce_channels": 0, "fusion": "sum"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_its_twin_in_float64(small_config, tmp_path, name):
    content = in_float64(small_config(**NETWORKS[name]), tmp_path)
    assert content["passed"] and len(content["numbers"]) > 100
    groups = {number["group"] for number in content["numbers"]}
    assert groups == {"stages", "logits", "loss", "gradients", "batch_stats", "losses", "parameters"}
    # Every part has a gradient, λ and μ included: nothing passes by being switched off.
    largest = {n["name"]: n["float64"]["absolute"] for n in content["numbers"] if n["group"] == "gradients"}
    assert all(np.isfinite(value) for value in largest.values())


@pytest.fixture
def arguments(streets_dir, tmp_path):
    """Of the verb: a config file, random weights, and a folder for the report."""
    config = tmp_path / "small.py"
    config.write_text(
        "from dpanet_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    config.data.data_dir = {str(streets_dir)!r}\n"
        "    config.data.crop_size, config.data.base_size = (41, 51), 128\n"
        "    config.model.backbone, config.model.width, config.model.reduce_channels = 'resnet18', 4, 8\n"
        "    config.training.batch_size = 2\n"
        "    return config\n"
    )
    return ["compare", f"--config={config}", "--torch=random", f"--output={tmp_path / 'report'}"]


def test_the_verb_writes_the_report_in_both_precisions(arguments, tmp_path, capsys):
    assert command_line.main([*arguments, "--steps=2", "--images=3"]) == 0
    shown = capsys.readouterr().out
    assert "gradients of 85 parameters, worst" in shown and "within its bar" in shown and "off" not in shown
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["passed"] and content["mean_iou"]["images"] == 3
    assert content["mean_iou"]["difference"] <= 0.01 and content["mean_iou"]["pixels"] > 0
    gradient = next(n for n in content["numbers"] if n["name"] == "pretrained.conv1.weight")
    assert gradient["shape"] == [4, 3, 7, 7]
    assert gradient["float64"]["relative"] < 1e-9 < gradient["float32"]["relative"]
    assert {"flax_rounding", "torch_rounding"} <= gradient["float32"].keys()
    assert (tmp_path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_both_sides_read_a_file_of_the_whole_network(small_config, tmp_path):
    config = small_config()
    twin = twin_lib.build(19, **{k: config.model[k] for k in ("backbone", "width", "reduce_channels")})
    state_dict = {name: value.numpy() for name, value in twin.state_dict().items() if value.dim()}
    state_dict["head.sa.gamma"], state_dict["head.sc.gamma"] = np.full(1, 0.5, "f4"), np.full(1, -0.25, "f4")
    save_file(state_dict, tmp_path / "whole.safetensors")
    content = in_float64(config, tmp_path / "report", str(tmp_path / "whole.safetensors"), steps=1)
    assert content["passed"]


def test_a_slip_in_the_table_of_names_is_seen(small_config, tmp_path, monkeypatch):
    """Two modules of one shape exchanged: the twin reads the file by its own names."""
    twin = twin_lib.build(19, backbone="resnet18", width=4, reduce_channels=8)
    state_dict = {name: value.numpy() for name, value in twin.state_dict().items() if value.dim()}
    save_file(state_dict, tmp_path / "whole.safetensors")
    monkeypatch.setitem(names.DPANET_HEAD, "spatial_classifier", "conv7.1")
    monkeypatch.setitem(names.DPANET_HEAD, "channel_classifier", "conv6.1")
    with pytest.raises(run.NotTheSame, match="loss loss/spatial"):
        in_float64(small_config(), tmp_path / "report", str(tmp_path / "whole.safetensors"), steps=1)


def test_a_backbone_s_file_leaves_the_heads_random_and_the_same(small_config, tmp_path):
    config = small_config()
    twin = twin_lib.build(19, backbone="resnet18", width=4)
    state_dict = {k: v.numpy() for k, v in twin.pretrained.state_dict().items() if v.dim()}
    save_file(state_dict, tmp_path / "backbone.safetensors")
    assert "conv1.weight" in load_file(tmp_path / "backbone.safetensors")
    assert in_float64(config, tmp_path / "report", str(tmp_path / "backbone.safetensors"), steps=1)["passed"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": {"momentum": 0.8}}, "parameters pretrained"),
        ({"optimizer": {"power": 0.8}}, "losses step"),
        ({"loss_weights": {"fused": 1.0, "spatial": 1.0, "channel": 1.0, "auxiliary": 0.5}}, "loss loss"),
    ],
    ids=("momentum", "power", "loss weight"),
)
def test_a_difference_is_an_error_that_names_it(small_config, tmp_path, monkeypatch, change, words):
    """The PyTorch side does something else."""
    theirs = torch_side.measure

    def other(recipe, *rest):
        changed = dict(change)
        if "optimizer" in change:
            changed["optimizer"] = dataclasses.replace(recipe.optimizer, **change["optimizer"])
        return theirs(dataclasses.replace(recipe, **changed), *rest)

    monkeypatch.setattr(torch_side, "measure", other)
    with pytest.raises(run.NotTheSame, match=f"numbers are off: .*{words}"):
        in_float64(small_config(), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["passed"] is False
    # What comes before the change is as it should be.
    assert all(n["float64"]["passed"] for n in content["numbers"] if n["group"] in ("stages", "logits"))


def test_a_head_without_loss_only_decays_and_classes_may_weigh(small_config, tmp_path):
    config = small_config()
    config.loss.spatial = config.loss.auxiliary = 0.0
    config.loss.class_weights = tuple(0.25 + i % 4 for i in range(19))
    content = in_float64(config, tmp_path, steps=2)
    assert content["passed"]
    assert {n["name"] for n in content["numbers"] if n["group"] == "loss"} == {
        "loss", "loss/fused", "loss/channel",
    }  # fmt: skip


def test_the_verb_exits_with_1_where_a_number_is_off(arguments, tmp_path, capsys):
    """Flax's running variance is not PyTorch's."""
    biased = ["--config.model.bn_variance=biased", "--steps=1", "--images=-1", "--precision=float64"]
    assert command_line.main([*arguments, *biased]) == 1
    said = capsys.readouterr()
    assert "25 numbers are off: batch_stats pretrained.bn1.running_var (float64)" in said.err
    assert "batch statistics after step 1 (50), worst" in said.out and "NOT the same" in said.out
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    off = {n["name"] for n in content["numbers"] if n["float64"]["passed"] is False}
    assert len(off) == 25 and all(name.endswith("running_var") for name in off)


def test_bad_requests_come_before_any_work(small_config, tmp_path):
    config = small_config(backbone="resnest50")
    config.training.batch_size = 1
    with pytest.raises(ConfigError, match="batch_size=1: a ResNeSt's batch norm"):
        in_float64(config, tmp_path / "report")
    with pytest.raises(UsageError, match="--steps=0: must be 1 or more"):
        in_float64(small_config(), tmp_path / "report", steps=0)
    with pytest.raises(UsageError, match="--steps=21: the config's training has 20 only"):
        in_float64(small_config(), tmp_path / "report", steps=21)
    with pytest.raises(UsageError, match="--precision=float16: choose float64"):
        run.run(small_config(), "random", tmp_path / "report", precisions=("float16",))
    with pytest.raises(WeightsError, match="there is no such file"):
        in_float64(small_config(), tmp_path / "report", "absent.safetensors")
    assert not (tmp_path / "report").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file: --output must be a folder"):
        in_float64(small_config(), tmp_path / "file")


def test_a_network_without_a_twin_is_refused_before_any_work(small_config, tmp_path, monkeypatch):
    monkeypatch.setitem(models.HEADS, "mine", models.HEADS["fcn"])
    config = small_config(name="mine", reduce_channels=512)
    config.data.data_dir = str(tmp_path / "nothing is opened")
    with pytest.raises(ConfigError) as error:
        in_float64(config, tmp_path / "report")
    assert str(error.value) == "config.model.name='mine' has no PyTorch twin: choose one of dpanet, fcn"
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer.name": "lars"}, "config.optimizer.name=lars: the twin has sgd only"),
        ({"optimizer.name": "adamw"}, "config.optimizer.name=adamw: the twin has sgd only"),
        ({"optimizer.schedule": "cosine"}, "config.optimizer.schedule='cosine': the twin has none; leave it"),
        ({"optimizer.layer_decay": 0.9}, "layer_decay=0.9: the twin has none; leave it at its default, 1.0,"),
        (
            {"loss.label_smoothing": 0.1},
            "config.loss.label_smoothing=0.1: the twin has none; leave it at its",
        ),
        ({"loss.focal_gamma": 2.0}, "config.loss.focal_gamma=2.0: the twin has none"),
        ({"loss.ohem_threshold": 0.7}, "config.loss.ohem_threshold=0.7: the twin has none"),
        (
            {"loss.dice": 1.0},
            "config.loss.dice=1.0: the twin has none; leave it at its default, 0.0, to comp",
        ),
        ({"loss.lovasz": 0.5, "loss.cross_entropy": 0.0}, "cross_entropy=0.0: the twin has none"),
    ],
)
def test_what_the_twin_is_not_trained_by_is_refused_before_any_work(small_config, tmp_path, change, words):
    config = small_config()
    config.update_from_flattened_dict(change)
    config.data.data_dir = str(tmp_path / "nothing is opened")
    with pytest.raises(ConfigError, match=words):
        in_float64(config, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_frozen_backbone_is_refused_before_any_work(small_config, tmp_path):
    config = small_config()
    config.training.freeze = "batch_norms"
    words = "config.training.freeze='batch_norms': the twin has none; leave it at its default, 'nothing'"
    with pytest.raises(ConfigError, match=words):
        run.run(config, "random", tmp_path)


def test_the_twin_s_protocol_is_evaluation_s():
    """The same ids and probabilities from the same weights, the images resized or as they are."""
    options = {"backbone": "resnet18", "width": 4, "reduce_channels": 8}
    recipe = Recipe(5, options, {}, (), Optimizer(), batch_size=1, total_steps=1)
    images = np.random.default_rng(0).integers(0, 256, (2, 33, 49, 3)).astype(np.uint8)
    batch = {"image": images, "extent": np.array([[33, 49], [33, 49]])}
    state_dict = torch_side.random_weights(recipe, batch, seed=0)
    model = models.build(5, **options)
    like = jax.eval_shape(lambda rng: models.init_variables(model, rng), jax.random.key(0))
    variables = fit(state_dict, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like))
    for base_size in (0, 40):
        ours = protocols.make("whole", model, base_size=base_size)
        theirs = torch_side.TwinWhole(recipe, base_size)
        assert (theirs.name, theirs.base_size) == (ours.name, ours.base_size)
        sides = [(side, side.put(weights)) for side, weights in ((ours, variables), (theirs, state_dict))]
        one, other = (side.probabilities(images, put) for side, put in sides)
        assert other.dtype == np.float32 and other.shape == (2, 33, 49, 5)
        np.testing.assert_allclose(other.sum(axis=-1), 1, rtol=1e-5)
        np.testing.assert_allclose(one, other, atol=1e-4)
        ids, same = (side.ids(images, put) for side, put in sides)
        assert (ids.dtype, ids.shape) == (same.dtype, same.shape) == (np.uint8, (2, 33, 49))
        assert (ids == same).mean() > 0.999
        np.testing.assert_array_equal(same, other.argmax(axis=-1))
