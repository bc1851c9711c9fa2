"""Options declared once: an option is a typed field of the class that uses it.

    fusion: Annotated[Literal["concat", "sum"], Option("how the branches are joined")] = "concat"

Name, type, choices, default, bounds and words are all there. The configuration, its checks and their
messages, the reference page in the docs and the arguments of the PyTorch twin are read from such fields.
The class is a dataclass; a Flax module is one too.
"""

import dataclasses
import difflib
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from dpanet_jax.errors import UsageError


class OptionError(UsageError):
    """An option is unknown, or its value is wrong; the text names it and says what it may be."""


# What an option is of, and what a run that goes on may do with it. "learned" is what every option is that
# does not say otherwise.
KINDS = {
    "learned": "changes what is learned: a run goes on with the value that it began with",
    "start": "is read when a run begins, and has no effect on one that goes on",
    "evaluation": "says how a run is evaluated: it may change",
    "operation": "says how a run is carried out: it may change",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """What marks a field as an option, beside its type and default.

    words: what it does, for the reference page. kind: what a run that goes on may do with it; see
    `KINDS`. key: its name in the configuration, where that is not the
    field's. least and most are reached, below and above are not; of a tuple they bound every element.
    length: how many elements a tuple must have. selects: the class that a choice brings in, whose options
    then count too; the choices of a plain text are its keys.
    """

    words: str
    key: str = ""
    kind: Literal["learned", "start", "evaluation", "operation"] = "learned"
    least: float | None = None
    most: float | None = None
    below: float | None = None
    above: float | None = None
    length: int | None = None
    selects: Mapping[str, type] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Declared:
    """One option as it was declared: `key` in the configuration, `field` of `owner`."""

    key: str
    field: str
    owner: type
    type: Any  # bool, int, float, str, or tuple[…]
    choices: tuple[Any, ...]  # () where any value of the type will do
    default: Any
    option: Option

    @property
    def choosing(self) -> bool:
        """Whether a choice of its brings in a class."""
        return bool(self.option.selects)

    def check(self, value: Any, name: str = "") -> Any:
        """The value as the field takes it (a list becomes a tuple, an int a float where it should be one).

        Raises OptionError, which begins with `name` (none: the key).
        """
        name, option = name or self.key, self.option
        if self.choices:
            choose(name, value, self.choices)
            return value
        value = self._typed(name, value)
        if option.length is not None and len(value) != option.length:
            raise OptionError(f"{name}={value!r}: must have {option.length} values, not {len(value)}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not self._within(number):
                raise OptionError(f"{name}={value!r}: {self._bounds_in_words()}")
        return value

    def _typed(self, name: str, value: Any) -> Any:
        if get_origin(self.type) is tuple:
            item = get_args(self.type)[0]
            if isinstance(value, str) or not isinstance(value, tuple | list):
                raise OptionError(
                    f"{name}={value!r} is of type {type(value).__name__}; "
                    f"it must be a tuple, like {self.default!r}"
                )
            items = [_as(item, element) for element in value]
            odd = [x for x in items if x is None or (isinstance(x, float) and not math.isfinite(x))]
            if odd:
                raise OptionError(f"{name}={tuple(value)!r}: must be {_PLURAL[item]}")
            return tuple(items)
        typed = _as(self.type, value)
        if typed is None:
            raise OptionError(
                f"{name}={value!r} is of type {type(value).__name__}; "
                f"it must be {_SINGULAR[self.type]}, like {self.default!r}"
            )
        if isinstance(typed, float) and not math.isfinite(typed):
            raise OptionError(f"{name}={value!r}: must be finite")
        return typed

    def _within(self, number: float) -> bool:
        option = self.option
        return (
            (option.least is None or number >= option.least)
            and (option.most is None or number <= option.most)
            and (option.below is None or number < option.below)
            and (option.above is None or number > option.above)
        )

    def _bounds_in_words(self) -> str:
        words = self._bounds()
        return f"every value must be {words}" if get_origin(self.type) is tuple else f"must be {words}"

    def _bounds(self) -> str:
        option = self.option
        bounds = {
            "at least": option.least,
            "at most": option.most,
            "below": option.below,
            "above": option.above,
        }
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)

    def values_in_words(self) -> str:
        """Which values it may have, such as "a number, at least 0", for the reference page."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        words = _SINGULAR.get(self.type) or _PLURAL[get_args(self.type)[0]]
        if self.option.length is not None:
            words = f"{self.option.length} {words}"
        bounds = self._bounds()
        return f"{words}, {bounds}" if bounds else words


_SINGULAR = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
_PLURAL = {int: "whole numbers", float: "finite numbers", str: "texts"}


def _as(kind: Any, value: Any) -> Any:
    """The value as one of `kind`, or None where it is not."""
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return value if type(value) is kind else None


def choose(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises OptionError where a value is not one of the choices, or equals one but is of another type."""
    choices = tuple(choices)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise OptionError(f"{name}={value!r}: choose one of {', '.join(map(str, choices))}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest of the known names, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def declared(owner: type) -> dict[str, Declared]:
    """{key: option} of the class's own fields, in their order."""
    found = {}
    for field in dataclasses.fields(owner):
        annotation = _annotation(owner, field)
        if get_origin(annotation) is not Annotated:
            continue
        kind, *marks = get_args(annotation)
        option = next((mark for mark in marks if isinstance(mark, Option)), None)
        if option is None:
            continue
        choices = get_args(kind) if get_origin(kind) is Literal else tuple(option.selects)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        key = option.key or field.name
        found[key] = Declared(
            key, field.name, owner, type(choices[0]) if choices else kind, choices, default, option
        )
    return found


def _annotation(owner: type, field: "dataclasses.Field[Any]") -> Any:
    """The field's type. After `from __future__ import annotations` a class holds but the text of it."""
    if not isinstance(field.type, str):
        return field.type
    home = next(cls for cls in owner.__mro__ if field.name in vars(cls).get("__annotations__", {}))
    return eval(field.type, vars(sys.modules[home.__module__]))


def family(owner: type) -> list[type]:
    """The class, and every class that a choice among its options can bring in."""
    selected = [cls for own in declared(owner).values() for cls in own.option.selects.values()]
    return [owner, *(member for cls in selected for member in family(cls))]


def used(owner: type, values: Mapping[str, Any]) -> dict[str, Declared]:
    """{key: option} of the class and of those that `values` (by key; else the defaults) bring in."""
    found = declared(owner)
    for own in list(found.values()):
        chosen = own.option.selects.get(str(values.get(own.key, own.default)))
        if chosen is not None:
            found.update(used(chosen, values))
    return found


def merged(owners: Iterable[type]) -> dict[str, Declared]:
    """{key: option} of several classes. Raises TypeError where one key means two things.

    One name has one type, one set of choices, one default and one meaning wherever it appears.
    """
    found: dict[str, Declared] = {}
    for owner in owners:
        for key, own in declared(owner).items():
            first = found.setdefault(key, own)
            what = ("type", "choices", "default", "option")
            differs = [name for name in what if getattr(first, name) != getattr(own, name)]
            if differs:
                raise TypeError(
                    f"the option {key} has another {differs[0]} in {own.owner.__name__} than in "
                    f"{first.owner.__name__}: one name means one thing"
                )
    return found


def read(owner: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """An instance of a dataclass of options from {key: value}, each checked; its own checks run too.

    Raises OptionError naming `prefix` and the key of what is unknown, missing or wrong.
    """
    known = declared(owner)
    check_names(values, known, prefix)
    checked = {known[key].field: known[key].check(value, prefix + key) for key, value in values.items()}
    try:
        return owner(**checked)
    except OptionError as error:
        raise OptionError(f"{prefix}{error}") from error


def check_names(values: Iterable[str], known: Mapping[str, Declared], prefix: str = "") -> None:
    """Raises OptionError for a name that is not known, with the nearest one that is."""
    for name in values:
        if name not in known:
            raise OptionError(
                f"{prefix}{name} is not an option{did_you_mean(name, known)}; "
                f"the options are {', '.join(known)}"
            )


def check_fields(instance: Any) -> None:
    """Raises OptionError, naming the field, where an option of a dataclass has a value it may not have."""
    for own in declared(type(instance)).values():
        own.check(getattr(instance, own.field), own.field)


def own_fields(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """{field: value} of the class's own options, by the keys of `values`; what is not there is left out."""
    return {own.field: values[key] for key, own in declared(owner).items() if key in values}
