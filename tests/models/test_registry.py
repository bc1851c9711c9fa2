"""Backbones, heads and whole networks of one's own: registered, built and applied."""

from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpanet_jax import models
from dpanet_jax.models import LossTerm, Numerics
from dpanet_jax.options import Option, OptionError, check_fields, merged

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 24, 3)).astype(np.float32)
SMALL = {"backbone": "resnet18", "width": 2, "reduce_channels": 4}


class Edges(nn.Module):
    """A backbone of four strided convolutions."""

    architecture: str
    numerics: Numerics = Numerics()
    edge_size: Annotated[int, Option("kernel of every stage", least=1)] = 3

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        conv, norm = self.numerics.layers(train)
        stages, x = {}, images
        for i in (1, 2, 3, 4):
            x = stages[f"c{i}"] = nn.relu(
                norm(name=f"bn{i}")(conv(4 * i, self.edge_size, 2, name=f"conv{i}")(x))
            )
        return stages


class TwoStages(nn.Module):
    """A head that reads two stages, and in training says what it makes of the lower one."""

    LOSS_TERMS: ClassVar[dict[str, LossTerm]] = {
        "fused": LossTerm("logits", 1.0),
        "lower": LossTerm("lower", 0.25),
    }

    num_classes: int
    numerics: Numerics = Numerics()
    lower: Annotated[Literal["c1", "c2", "c3"], Option("the other stage that it reads")] = "c3"
    mixing: Annotated[float, Option("part of the lower stage", least=0, most=1)] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        if self.lower == "c1" and self.mixing == 1:
            raise OptionError("mixing=1.0: the first stage alone is too little")
        super().__post_init__()

    @nn.compact
    def __call__(self, stages: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        conv, _ = self.numerics.layers(train)
        high = conv(self.num_classes, 1, use_bias=True, name="high")(stages["c4"])
        low = conv(self.num_classes, 1, use_bias=True, name="low")(stages[self.lower])
        row, column = (-(-low.shape[axis] // high.shape[axis]) for axis in (1, 2))
        fused = (1 - self.mixing) * high + self.mixing * low[:, ::row, ::column]
        return {"logits": fused, "lower": low} if train else {"logits": fused}


class Pixels(nn.Module):
    """A whole network without stages or batch norm."""

    LOSS_TERMS: ClassVar[dict[str, LossTerm]] = {"fused": LossTerm("logits", 2.0)}

    num_classes: int
    numerics: Numerics = Numerics()
    patch: Annotated[int, Option("pixels of a patch's side", least=1)] = 4

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        conv, _ = self.numerics.layers(train)
        return {"logits": conv(self.num_classes, 1, self.patch, use_bias=True, name="classify")(images)}


pytestmark = pytest.mark.usefixtures("registries")


def shapes_of(model: Any, train: bool, with_stages: bool = False) -> dict[str, tuple[int, ...]]:
    """{output: shape} on `IMAGES`; nothing is computed."""

    def run(rng: jax.Array) -> dict[str, jax.Array]:
        variables = models.init_variables(model, rng)
        rngs = {"dropout": rng}
        return model.apply(variables, IMAGES, train, with_stages, rngs=rngs, mutable=["batch_stats"])[0]

    return {name: x.shape for name, x in jax.eval_shape(run, jax.random.key(0)).items()}


def test_a_head_of_one_s_own(random_variables):
    models.register_head("twostages", TwoStages)
    models.register_backbone("edges", Edges)
    assert {"lower", "mixing"} <= models.all_options().keys()
    assert models.all_loss_terms()["lower"] == LossTerm("lower", 0.25)
    model = models.build(3, name="twostages", lower="c2", mixing=0.25, backbone="edges")
    assert model.loss_terms() == {
        "fused": LossTerm("logits", 1.0),
        "lower": LossTerm("lower", 0.25),
        "auxiliary": LossTerm("auxiliary", 0.4),
    }
    shapes = {"logits": (2, 1, 2, 3), "lower": (2, 4, 6, 3), "auxiliary": (2, 2, 3, 3)}
    assert shapes_of(model, train=True) == shapes
    assert shapes_of(model, False, with_stages=True).keys() == {"logits", "c1", "c2", "c3", "c4"}
    # Its options reach it, and it is what answers: at 0 the logits are the fourth stage's alone.
    model = models.build(3, name="twostages", mixing=0.0, backbone="edges", auxiliary=False)
    variables = random_variables(model, IMAGES, train=True)
    outputs = model.apply(variables, IMAGES, False, with_stages=True)
    high = variables["params"]["head"]["high"]
    expected = np.asarray(outputs["c4"]) @ high["kernel"] + high["bias"]
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5, atol=1e-5)


def test_a_head_of_one_s_own_checks_its_options(assert_names):
    models.register_head("twostages", TwoStages)
    with pytest.raises(OptionError) as error:
        models.build(3, name="twostages", lower="c4")
    assert_names(error.value, ("lower", "c4"), ("c1", "c2", "c3"))
    with pytest.raises(OptionError) as error:  # what only the head knows
        models.build(3, name="twostages", lower="c1", mixing=1)
    assert_names(error.value, ("mixing", 1.0), ())
    with pytest.raises(OptionError) as error:
        models.build(3, mixing=0.25)
    assert_names(error.value, ("mixing", 0.25), ("name=dpanet", "default", "0.5"))


def test_the_auxiliary_head_uses_dropout(assert_names):
    """Where no other module does."""
    models.register_head("twostages", TwoStages)
    models.build(3, name="twostages", dropout=0.5)
    with pytest.raises(OptionError) as error:
        models.build(3, name="twostages", dropout=0.5, auxiliary=False)
    assert_names(error.value, ("dropout", 0.5), ("default", "0.1"))


def test_a_backbone_of_one_s_own():
    models.register_backbone("edges", Edges)
    assert "edge_size" in models.all_options()
    model = models.build(3, backbone="edges", edge_size=5, reduce_channels=4)
    head = (2, 1, 2, 3)
    expected = {"logits": head, "spatial": head, "channel": head, "auxiliary": (2, 2, 3, 3)}
    assert shapes_of(model, train=True) == expected
    variables = jax.eval_shape(lambda rng: models.init_variables(model, rng), jax.random.key(0))
    assert variables["params"]["backbone"]["conv2"]["kernel"].shape == (5, 5, 4, 8)
    with pytest.raises(OptionError, match="^output_stride=16: no chosen module uses it"):
        models.build(3, backbone="edges", output_stride=16)


def test_a_whole_network_of_one_s_own():
    models.register_network("pixels", Pixels)
    assert "patch" in models.all_options()
    model = models.build(3, name="pixels", patch=8, align_corners=True, dtype="bfloat16")
    assert model.loss_terms() == {"fused": LossTerm("logits", 2.0)} and model.align_corners
    variables = models.init_variables(model, jax.random.key(0))
    assert variables["params"].keys() == {"network"} and variables["batch_stats"] == {}
    outputs = model.apply(variables, IMAGES, True)
    assert outputs.keys() == {"logits"}
    assert outputs["logits"].dtype == jnp.float32  # whatever it computes in
    classify = variables["params"]["network"]["classify"]
    expected = IMAGES[:, ::8, ::8] @ np.asarray(classify["kernel"])
    np.testing.assert_allclose(outputs["logits"], expected, atol=0.05)
    assert shapes_of(model, False, with_stages=True).keys() == {"logits"}


@pytest.mark.parametrize(
    "option",
    [
        {"backbone": "resnet18"},
        {"output_stride": 16},
        {"auxiliary": False},
        {"dropout": 0.5},
        {"fusion": "sum"},
    ],
    ids=str,
)
def test_a_whole_network_uses_no_other_s_options(assert_names, option):
    models.register_network("pixels", Pixels)
    with pytest.raises(OptionError) as error:
        models.build(3, name="pixels", **option)
    (wrong,) = option.items()
    assert_names(error.value, wrong, ("name=pixels", "default"))
    default = models.all_options()[wrong[0]].default
    models.build(3, name="pixels", **{wrong[0]: default})


REGISTERS = {
    "backbone": (models.register_backbone, Edges),
    "head": (models.register_head, TwoStages),
    "network": (models.register_network, Pixels),
}


@pytest.mark.parametrize("register, cls", REGISTERS.values(), ids=REGISTERS)
@pytest.mark.parametrize("name", ["resnet50", "dpanet", "mine"])
def test_a_name_that_is_taken_is_refused(register, cls, name):
    models.register_network("mine", type("Mine", (Pixels,), {}))
    registered = {name: dict(registry) for name, registry in REGISTRIES.items()}
    with pytest.raises(OptionError) as error:
        register(name, cls)
    assert repr(name) in str(error.value) and "\n" not in str(error.value)
    assert {name: dict(registry) for name, registry in REGISTRIES.items()} == registered


REGISTRIES = {"backbones": models.BACKBONES, "heads": models.HEADS, "networks": models.NETWORKS}


@pytest.mark.parametrize("register, cls", REGISTERS.values(), ids=REGISTERS)
def test_the_same_once_more_is_no_mistake(register, cls):
    """A module may be imported under two names, as a config file is."""
    register("mine", cls)
    register("mine", cls)


def test_one_name_means_one_thing():
    """Over every module that can be registered: `merged` raises where two disagree."""
    options = models.all_options()
    assert {"name", "backbone", "stem", "dropout", "pool_sizes", "affinity", "dtype"} <= options.keys()
    assert len(options) > 15

    class Other(nn.Module):
        dropout: Annotated[
            float, Option("share of the channels dropped before each classifier", least=0, below=1)
        ] = 0.5

    models.register_head("other", Other)
    with pytest.raises(TypeError, match="the option dropout has another default in Other than in"):
        models.all_options()


def declaring(**changes: Any) -> type:
    """A class of one option `size`."""
    whole = {"kind": int, "default": 3, "words": "how large", "least": 1, **changes}
    option = Option(whole["words"], least=whole["least"])
    kind = whole["kind"]
    body = {"__annotations__": {"size": Annotated[kind, option]}, "size": whole["default"]}
    return type("Declaring", (nn.Module,), body)


@pytest.mark.parametrize(
    "change, what",
    [
        ({"default": 4}, "default"),
        ({"kind": float}, "type"),
        ({"kind": Literal[3, 4]}, "choices"),
        ({"words": "how many"}, "option"),
        ({"least": 0}, "option"),
    ],
    ids=str,
)
def test_every_difference_is_a_conflict(change, what):
    assert merged([declaring(), declaring()]).keys() == {"size"}
    with pytest.raises(TypeError, match=f"the option size has another {what} in "):
        merged([declaring(), declaring(**change)])
