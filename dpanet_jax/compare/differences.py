"""How far two sides' numbers lie apart, and which of it float32 explains."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from dpanet_jax.compare.measured import Measured

# Largest relative difference in float64. What is not a bug is below it by orders of magnitude.
BARS = {
    "stages": 1e-9,
    "logits": 1e-9,
    "loss": 1e-9,
    "gradients": 1e-8,
    "batch_stats": 1e-9,
    "losses": 1e-7,
    "parameters": 1e-7,
}
# As a part of their range, whatever the rounding.
LOGITS_BAR_FLOAT32 = 1e-4
# How many times PyTorch's own rounding (its float32 from its float64) Flax's may be; PyTorch's is that of the
# array or the median of its group's, whichever is larger: a single number is now and then right by chance.
# Where both are below the floor, a few units in the last place, their ratio is chance too.
ROUNDING_RATIO = 10.0
ROUNDING_FLOOR = 1e-6
# Some gradients are 0 but for rounding (of a bias before a batch norm, say): a tensor whose values are
# all smaller than this part of its group's largest is measured against that.
SCALE_FLOOR = 1e-6


@dataclass
class Difference:
    """Of one array in one precision, largest over its elements; relative to the largest magnitude in it.

    Of logits, which a constant may be added to, relative to their range.

    `flax_rounding` and `torch_rounding` are the side's own distance from its float64 values, relative to
    the same, where the precision is float32 and float64 was measured too; `usual_rounding` is the median
    of PyTorch's over the group.
    """

    absolute: float
    relative: float
    flax_rounding: float | None = None
    torch_rounding: float | None = None
    usual_rounding: float | None = None


@dataclass
class Number:
    """One array compared: its group in `Measured`, its name, and a Difference by precision."""

    group: str
    name: str
    shape: tuple[int, ...]
    by_precision: dict[str, Difference]

    def verdict(self, precision: str) -> bool | None:
        """Whether it is as it must be; None where there is nothing to judge it by."""
        difference = self.by_precision[precision]
        if precision == "float64":
            return difference.relative <= BARS[self.group]
        if self.group == "logits" and not difference.relative <= LOGITS_BAR_FLOAT32:
            return False
        if difference.torch_rounding is None:
            return True if self.group == "logits" else None
        yardstick = max(difference.torch_rounding, difference.usual_rounding or 0.0)
        allowed = max(ROUNDING_RATIO * yardstick, ROUNDING_FLOOR)
        own = difference.flax_rounding
        return own is not None and own <= allowed and difference.relative <= allowed + yardstick


def compare(measured: dict[str, tuple[Measured, Measured]]) -> list[Number]:
    """The Numbers of {"float64" or "float32": (Flax's, PyTorch's)}, in the order of the network.

    Raises ValueError where the sides do not have the same names and shapes.
    """
    numbers = []
    for group in (field.name for field in fields(Measured)):
        sides = {p: [getattr(side, group) for side in pair] for p, pair in measured.items()}
        reference = next(iter(sides.values()))[1]
        for precision, (ours, theirs) in sides.items():
            shapes = [{name: x.shape for name, x in side.items()} for side in (ours, theirs)]
            if shapes[0] != shapes[1]:
                odd = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[:4]
                raise ValueError(f"{group} in {precision}: only one of the two sides has {odd}")
        floor = SCALE_FLOOR * max((_largest(x) for x in reference.values()), default=0.0)
        for name, array in reference.items():
            scale = max(float(np.ptp(array)) if group == "logits" else _largest(array), floor)
            by_precision = {
                precision: _difference(
                    [side[name] for side in sides[precision]],
                    [side[name] for side in sides["float64"]] if "float64" in sides else None,
                    scale,
                )
                for precision in sides
            }
            numbers.append(Number(group, name, array.shape, by_precision))
        _add_usual_rounding([number for number in numbers if number.group == group])
    return numbers


def _add_usual_rounding(members: list[Number]) -> None:
    rounded = [d for number in members for d in number.by_precision.values() if d.torch_rounding is not None]
    for difference in rounded:
        difference.usual_rounding = float(np.median([d.torch_rounding or 0.0 for d in rounded]))


def _difference(pair: Sequence[np.ndarray], exact: Sequence[np.ndarray] | None, scale: float) -> Difference:
    absolute = _largest(_minus(*pair))
    relative = _ratio(absolute, scale)
    if exact is None or exact[0] is pair[0]:
        return Difference(absolute, relative)
    roundings = (_ratio(_largest(_minus(x, y)), scale) for x, y in zip(pair, exact, strict=True))
    return Difference(absolute, relative, *roundings)


def _minus(one: Any, other: Any) -> np.ndarray:
    return np.asarray(one, np.float64) - np.asarray(other, np.float64)


def _largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(x))) if np.size(x) else 0.0


def _ratio(absolute: float, scale: float) -> float:
    if absolute == 0:
        return 0.0
    return absolute / scale if scale else float("inf")
