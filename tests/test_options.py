"""Options: what a declaration says, and one line for every value that does not fit it."""

import dataclasses
import math
from typing import Annotated, Any, Literal

import pytest

from dpanet_jax.options import (
    Option,
    OptionError,
    check_fields,
    declared,
    did_you_mean,
    family,
    merged,
    own_fields,
    read,
    used,
)


@dataclasses.dataclass(frozen=True)
class Sharp:
    """What `filter` "sharp" brings in."""

    radius: Annotated[float, Option("of the filter, in pixels", above=0, most=9)] = 1.5


@dataclasses.dataclass(frozen=True)
class Plain:
    """What `filter` "plain" brings in: no option."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One option of every kind, and a field that is none."""

    mode: Annotated[Literal["rgb", "grey"], Option("colours", key="colours")] = "rgb"
    depth: Annotated[Literal[8, 16], Option("bits")] = 8
    filter: Annotated[str, Option("filter, or none", selects={"sharp": Sharp, "plain": Plain})] = "plain"
    flip: Annotated[bool, Option("left to right")] = True
    count: Annotated[int, Option("of pictures", least=1)] = 4
    share: Annotated[float, Option("of them all", least=0, below=1)] = 0.5
    size: Annotated[tuple[int, ...], Option("height and width", least=1, length=2)] = (3, 4)
    weights: Annotated[tuple[float, ...], Option("of the classes", least=0)] = ()
    names: Annotated[tuple[str, ...], Option("of the classes")] = ()
    title: Annotated[str, Option("above it")] = ""
    plain: int = 3

    def __post_init__(self) -> None:
        if self.count > 100 and self.flip:
            raise OptionError(f"count={self.count}: too many to flip")


def message_of(values: dict[str, Any], prefix: str = "") -> str:
    with pytest.raises(OptionError) as error:
        read(Picture, values, prefix)
    assert "\n" not in str(error.value)
    return str(error.value)


# `object` is no dataclass; where it is chosen nothing is read from it.
OPTIONS = ("colours", "depth", "filter", "flip", "count", "share", "size", "weights", "names", "title")


def test_a_declaration_is_read_off_the_class():
    found = declared(Picture)
    assert tuple(found) == OPTIONS  # and not `plain`
    assert (found["colours"].field, found["colours"].key) == ("mode", "colours")
    assert found["colours"].choices == ("rgb", "grey") and found["depth"].choices == (8, 16)
    assert found["filter"].choices == ("sharp", "plain") and found["filter"].choosing
    assert (found["share"].type, found["share"].default) == (float, 0.5)
    assert found["count"].option.words == "of pictures" and not found["count"].choosing


def test_what_is_right_is_taken_in_the_type_of_the_field():
    assert read(Picture, {}) == Picture()
    picture = read(
        Picture, {"colours": "grey", "size": [5, 6], "share": 0, "weights": (1, 0.5), "names": ["a"]}
    )
    assert picture.mode == "grey"
    assert picture.size == (5, 6) and isinstance(picture.size, tuple)
    assert isinstance(picture.share, float) and picture.share == 0
    assert picture.weights == (1.0, 0.5) and all(isinstance(weight, float) for weight in picture.weights)
    assert picture.names == ("a",)
    assert read(Sharp, {"radius": 9}).radius == 9  # the bound itself


WRONG = [
    ({"colours": "blue"}, ("rgb", "grey")),
    ({"colours": None}, ("rgb", "grey")),
    ({"depth": "8"}, ("8", "16")),
    ({"depth": 8.0}, ("8", "16")),
    ({"depth": True}, ("8", "16")),
    ({"filter": "soft"}, ("sharp", "plain")),
    ({"flip": 1}, ("True or False",)),
    ({"flip": "True"}, ("True or False",)),
    ({"count": 1.0}, ("whole number", "float")),
    ({"count": True}, ("whole number", "bool")),
    ({"count": None}, ("whole number", "NoneType")),
    ({"count": 0}, ("at least 1",)),
    ({"share": "0.5"}, ("number", "str")),
    ({"share": True}, ("number", "bool")),
    ({"share": math.nan}, ("finite",)),
    ({"share": math.inf}, ("finite",)),
    ({"share": 1.0}, ("at least 0 and below 1",)),
    ({"share": -0.1}, ("at least 0 and below 1",)),
    ({"size": 3}, ("tuple", "int")),
    ({"size": "34"}, ("tuple", "str")),
    ({"size": (3, 4, 5)}, ("2 values", "3")),
    ({"size": ()}, ("2 values", "0")),
    ({"size": (3, 0)}, ("every value", "at least 1")),
    ({"size": (3, 4.0)}, ("whole numbers",)),
    ({"size": (3, None)}, ("whole numbers",)),
    ({"weights": (1.0, math.nan)}, ("finite numbers",)),
    ({"weights": (1.0, -1.0)}, ("every value", "at least 0")),
    ({"names": ("a", 3)}, ("texts",)),
    ({"title": 3}, ("text", "int")),
]


@pytest.mark.parametrize("values, words", WRONG, ids=str)
def test_a_wrong_value_is_one_line_that_names_it(values, words):
    ((name, value),) = values.items()
    message = message_of(values, "config.data.")
    assert message.startswith(f"config.data.{name}={value!r}")
    rest = message.removeprefix(f"config.data.{name}={value!r}")
    assert all(word in rest for word in words), message


def test_bounds_that_are_not_reached_and_that_are():
    for value, right in ((0, False), (0.001, True), (9, True), (9.001, False)):
        if right:
            assert read(Sharp, {"radius": value}).radius == value
        else:
            with pytest.raises(OptionError, match="radius=.*: must be at most 9 and above 0"):
                read(Sharp, {"radius": value})


def test_a_check_of_several_options_is_named_too():
    assert message_of({"count": 101}, "config.data.") == "config.data.count=101: too many to flip"
    assert read(Picture, {"count": 101, "flip": False}).count == 101


def test_an_unknown_name_says_which_was_meant():
    message = message_of({"colour": "rgb"}, "config.data.")
    assert message.startswith("config.data.colour is not an option; did you mean colours?")
    assert all(name in message for name in OPTIONS)
    assert "did you mean" not in message_of({"xyz": 1})
    # The field's own name is none, where the option has another; nor is a field that is no option.
    assert message_of({"mode": "rgb"}).startswith("mode is not an option")
    assert message_of({"plain": 1}).startswith("plain is not an option")
    assert did_you_mean("colur", OPTIONS) == "; did you mean colours?" and did_you_mean("q", OPTIONS) == ""


def test_fields_are_checked_by_their_names():
    check_fields(Picture(mode="grey"))
    with pytest.raises(OptionError, match="^mode='blue': choose one of rgb, grey$"):
        check_fields(Picture(mode="blue"))


@dataclasses.dataclass(frozen=True)
class Frame:
    """Brings in one of two, as the other classes do."""

    kind: Annotated[str, Option("of picture", selects={"sharp": Sharp, "frame": Picture})] = "sharp"


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Brings in what itself brings in another."""

    wall: Annotated[Literal["left", "none"], Option("that it hangs on", selects={"left": Frame})] = "left"


def test_options_of_what_is_chosen_count_too():
    assert used(Gallery, {}).keys() == {"wall", "kind", "radius"}
    assert used(Gallery, {"wall": "none"}).keys() == {"wall"}
    assert used(Gallery, {"kind": "frame"}).keys() == {"wall", "kind", *OPTIONS}
    assert family(Frame) == [Frame, Sharp, Picture, Sharp, Plain]


def test_own_fields_are_by_field_and_without_the_rest():
    values = {"colours": "grey", "size": (1, 2), "radius": 2.0}
    assert own_fields(Picture, values) == {"mode": "grey", "size": (1, 2)}


def test_several_classes_are_joined():
    assert merged([Sharp, Gallery, Sharp]).keys() == {"radius", "wall"}

    @dataclasses.dataclass(frozen=True)
    class Other:
        radius: Annotated[float, Option("of the filter, in pixels", above=0, most=9)] = 2.0

    with pytest.raises(TypeError, match="radius has another default in Other than in Sharp"):
        merged([Sharp, Other])


def test_annotations_that_are_text_are_read_too(tmp_path, monkeypatch):
    """`from __future__ import annotations` makes them so."""
    (tmp_path / "written_so.py").write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "from typing import Annotated, Literal\n"
        "from dpanet_jax.options import Option\n"
        "Size = Annotated[Literal[1, 2], Option('how large')]\n"
        "@dataclasses.dataclass\n"
        "class Base:\n"
        "    size: Size = 1\n"
        "@dataclasses.dataclass\n"
        "class Written(Base):\n"
        "    share: Annotated[float, Option('part', least=0)] = 0.5\n"
        "    other: int = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from written_so import Written

    found = declared(Written)
    assert found.keys() == {"size", "share"}
    assert found["size"].choices == (1, 2) and found["share"].option.least == 0


def test_values_in_words():
    found = declared(Picture)
    assert found["colours"].values_in_words() == "rgb, grey"
    assert found["share"].values_in_words() == "a number, at least 0 and below 1"
    assert found["size"].values_in_words() == "2 whole numbers, at least 1"
    assert found["flip"].values_in_words() == "True or False"
