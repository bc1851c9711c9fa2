"""What `scripts/benchmark` says of dilated convolutions."""

import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from benchmarks import dilation  # noqa: E402
from benchmarks.timing import Times  # noqa: E402
from benchmarks.ways import Measured, Way  # noqa: E402

from dpanet_jax.models.backbones.resnet import ResNet  # noqa: E402
from dpanet_jax.models.layers import Conv  # noqa: E402
from dpanet_jax.training.traced import equations  # noqa: E402


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_its_shapes_are_those_of_the_backbones(architecture):
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    model = ResNet(architecture)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jax.numpy.zeros(x.shape), False))
    program = jax.make_jaxpr(lambda variables, x: model.apply(variables, x, False))(variables, x)
    found = {
        (equation.invars[1].aval.shape[-1], *equation.params["rhs_dilation"])
        for equation, _ in equations(program.jaxpr)
        if equation.primitive.name == "conv_general_dilated" and max(equation.params["rhs_dilation"]) > 1
    }
    assert found == {(channels, d, d) for channels, d in dilation.SHAPES}


def test_each_way_runs_and_only_one_is_dilated(monkeypatch):
    made = []

    def conv(*arguments, **options):
        made.append((options["dilation"], options["dilated_as_batch"]))
        return Conv(*arguments, **options)

    monkeypatch.setattr(dilation, "Conv", conv)
    for name, how in dilation.WAYS.items():
        measurable = dilation.ours((1, 3, 5), 2, 2, "float32", True, **how)
        y, (of_variables, dx) = measurable.case()
        assert y.shape == dx.shape == (1, 3, 5, 2), name
        assert of_variables["params"]["kernel"].shape == (3, 3, 2, 2)
        assert measurable.flops == 3 * (1 * 3 * 5 * 2) * (2 * 9 * 2)
    assert dict(zip(dilation.WAYS, made, strict=True)) == {
        "as batch": (2, True),
        "dilated": (2, False),
        "undilated": (1, False),
    }
    forward = dilation.ours((1, 3, 5), 2, 2, "float32", False)
    assert forward.case().shape == (1, 3, 5, 2) and forward.flops == (1 * 3 * 5 * 2) * (2 * 9 * 2)


def test_rows_and_what_is_suspected():
    asked: list[dict[str, Way]] = []
    seconds = {"as batch": 1.2, "dilated": 6.0, "undilated": 1.0}

    def measure(ways):
        asked.append(ways)
        return Measured({name: Times((seconds[name],)) for name in ways}, 12.0)

    told: list[str] = []
    rows = list(dilation.rows("float32", 2, 769, 20.0, measure, told.append))
    assert len(asked) == 6 and len(rows) == 12
    assert {ways["dilated"].arguments["shape"] for ways in asked} == {(2, 97, 97)}
    found = [
        tuple(ways["undilated"].arguments[key] for key in ("channels", "dilation", "backward"))
        for ways in asked
    ]
    assert found == [(*shape, backward) for shape in dilation.SHAPES for backward in (False, True)]
    assert [row.ratio for row in rows[:2]] == pytest.approx([0.2, 6.0]) and rows[0].of_limit == 0.5
    assert rows[-1].work == "3×3, dilation 4, float32 2×97²×512 with gradients, dilated"
    assert len(told) == 6 and told[0].endswith(
        "6.0 times the undilated convolution's time; as a batch 5.0 times as fast as dilated: "
        "set config.model.dilated_as_batch=True"
    )
    seconds["as batch"] = 7.0
    assert dilation.verdict({name: Times((value,)) for name, value in seconds.items()}).endswith("no remedy")
    seconds["dilated"] = 1.1
    assert dilation.verdict({name: Times((value,)) for name, value in seconds.items()}) == ""
