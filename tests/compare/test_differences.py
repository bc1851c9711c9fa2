"""Differences and verdicts, on numbers made for it."""

import numpy as np
import pytest

from dpanet_jax.compare.differences import BARS, compare
from dpanet_jax.compare.measured import Measured


def only(numbers):
    (number,) = numbers
    return number


def measured(group, ours, theirs):
    return Measured(**{group: ours}), Measured(**{group: theirs})


def in_float64(group, ours, theirs):
    return compare({"float64": measured(group, ours, theirs)})


def test_difference_is_the_largest_and_relative_to_the_largest_magnitude():
    theirs = np.array([[1.0, -4.0], [0.5, 2.0]])
    ours = theirs + np.array([[0.0, 1e-12], [-3e-12, 0.0]])
    number = only(in_float64("stages", {"c1": ours}, {"c1": theirs}))
    difference = number.by_precision["float64"]
    assert (number.group, number.name, number.shape) == ("stages", "c1", (2, 2))
    assert difference.absolute == pytest.approx(3e-12, rel=1e-3)
    assert difference.relative == pytest.approx(3e-12 / 4, rel=1e-3)
    assert number.verdict("float64") is True


@pytest.mark.parametrize("group", BARS)
@pytest.mark.parametrize(("factor", "verdict"), [(0.5, True), (2, False), (np.nan, False)])
def test_float64_is_judged_by_its_bar(group, factor, verdict):
    theirs = np.array([1.0, 0.0])
    number = only(in_float64(group, {"x": theirs + factor * BARS[group]}, {"x": theirs}))
    assert number.verdict("float64") is verdict


def test_what_is_0_but_for_rounding_is_measured_against_its_group():
    ours = {"big": np.array([2.0]), "zero": np.array([3e-17])}
    theirs = {"big": np.array([2.0]), "zero": np.array([-1e-17])}
    big, zero = in_float64("gradients", ours, theirs)
    assert zero.by_precision["float64"].relative == pytest.approx(4e-17 / 2e-6)
    assert big.verdict("float64") and zero.verdict("float64")
    # In another group it is its own scale.
    assert not in_float64("gradients", {"x": np.array([3e-17])}, {"x": np.array([1e-17])})[0].verdict(
        "float64"
    )


def in_both(exact, ours, theirs, group="parameters"):
    """The float32 verdict where both sides agree in float64 on `exact`; a second element is 0 everywhere."""

    def pair(dtype, *values):
        return measured(group, *({"x": np.array([value, 0], dtype)} for value in values))

    return only(compare({"float64": pair("f8", exact, exact), "float32": pair("f4", ours, theirs)}))


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (1.0 + 1e-4, 1.0 - 1e-4, True),  # both round as much
        (1.0 + 9e-4, 1.0 - 1e-4, True),
        (1.0 + 2e-3, 1.0 - 1e-4, False),  # 20 times PyTorch's rounding
        (1.0 + 5e-7, 1.0, True),  # a few units in the last place
        (1.0 + 5e-6, 1.0, False),
    ],
)
def test_float32_is_judged_by_the_roundings_of_both_sides(ours, theirs, verdict):
    number = in_both(1.0, ours, theirs)
    assert number.verdict("float32") is verdict
    difference = number.by_precision["float32"]
    assert difference.flax_rounding == pytest.approx(abs(np.float32(ours) - 1.0))
    assert difference.torch_rounding == pytest.approx(abs(np.float32(theirs) - 1.0))


def test_a_number_that_pytorch_has_right_by_chance_is_held_to_the_group_s_rounding():
    exact = {name: np.array([1.0, 0.0]) for name in "abcd"}
    theirs = {name: np.array([1 + e, 0], "f4") for name, e in zip("abcd", (1e-3, 2e-3, 3e-3, 0), strict=True)}
    ours = {name: np.array([1 + e, 0], "f4") for name, e in zip("abcd", (1e-3, 5e-3, 0.5, 2e-3), strict=True)}
    both = {
        "float64": measured("gradients", exact, exact),
        "float32": measured("gradients", ours, theirs),
    }
    assert [number.verdict("float32") for number in compare(both)] == [True, True, False, True]


def test_float32_logits_have_a_bar_whatever_the_rounding():
    assert in_both(1.0, 1.0 + 8e-5, 1.0, "logits").verdict("float32") is False  # PyTorch's is 0
    assert in_both(1.0, 1.0 + 3e-4, 1.0 - 3e-4, "logits").verdict("float32") is False
    assert in_both(1.0, 1.0 + 4e-5, 1.0 - 4e-5, "logits").verdict("float32") is True


def test_logits_are_measured_against_their_range():
    theirs = np.array([1000.0, 1002.0])
    number = only(in_float64("logits", {"x": theirs + [0, 1e-6]}, {"x": theirs}))
    assert number.by_precision["float64"].relative == pytest.approx(5e-7)


def test_float32_alone_judges_the_logits_only():
    def verdict(group, difference):
        pair = measured(group, *({"x": np.array([1 + d, 0], "f4")} for d in (difference, 0)))
        return only(compare({"float32": pair})).verdict("float32")

    assert verdict("logits", 5e-5) is True
    assert verdict("logits", 5e-4) is False
    assert verdict("gradients", 5e-5) is None


@pytest.mark.parametrize("ours", [{"y": np.ones(2)}, {"x": np.ones(3)}, {}])
def test_sides_with_other_names_or_shapes_are_an_error(ours):
    with pytest.raises(ValueError, match="gradients in float64: only one of the two sides has"):
        in_float64("gradients", ours, {"x": np.ones(2)})


def test_groups_and_names_keep_the_network_s_order():
    names = ["pretrained.conv1.weight", "head.conv8.1.bias", "auxlayer.conv5.0.weight"]
    arrays = {name: np.ones(1) for name in names}
    pair = tuple(Measured(gradients=arrays, stages={"c1": np.ones(1)}) for _ in range(2))
    assert [number.name for number in compare({"float64": pair})] == ["c1", *names]
