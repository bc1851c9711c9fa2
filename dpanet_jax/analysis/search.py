"""The largest batch that fits, by as few compilations as the memory of the ones before allows."""

import dataclasses
from collections.abc import Callable

from dpanet_jax.analysis.cost import Cost, TooLarge


@dataclasses.dataclass(frozen=True)
class Largest:
    """What the search has found, in images of one device.

    images: the most that were compiled and fit; 0: none did. refused: the fewest that do not fit; None: none
    was found. tried: {images: bytes that they need, None where the compiler did not say}.
    """

    images: int
    refused: int | None
    tried: dict[int, int | None]

    def is_exact(self, unit: int) -> bool:
        """Whether the next larger batch is known not to fit."""
        return self.refused is not None and self.refused - self.images <= unit


def fits(outcome: Cost | TooLarge, memory: int) -> bool:
    """Whether a step that was compiled, or refused, fits in so many bytes."""
    return isinstance(outcome, Cost) and outcome.memory.total <= memory


def largest_batch(
    compile_images: Callable[[int], Cost | TooLarge],
    known: dict[int, Cost | TooLarge],
    *,
    memory: int,
    unit: int,
    max_compiles: int,
) -> Largest:
    """The most images a device that fit, in multiples of `unit`; `known` has one outcome or more.

    Each compilation is of what a straight line through the known needs predicts to be the most, or of its
    neighbour.
    """
    outcomes = dict(known)
    for _ in range(max_compiles):
        low, high = _between(outcomes, memory)
        if high is not None and high - low <= unit:
            break
        images = max(low + unit, _predicted(outcomes, memory) // unit * unit)
        if high is not None:
            images = min(images, (high - 1) // unit * unit)
        outcomes[images] = compile_images(images)
    low, high = _between(outcomes, memory)
    return Largest(low, high, {images: _needed(outcomes[images]) for images in sorted(outcomes)})


def _between(outcomes: dict[int, Cost | TooLarge], memory: int) -> tuple[int, int | None]:
    good = [images for images, outcome in outcomes.items() if fits(outcome, memory)]
    bad = [images for images in outcomes if images not in good]
    return max(good, default=0), min(bad, default=None)


def _needed(outcome: Cost | TooLarge) -> int | None:
    return outcome.needed if isinstance(outcome, TooLarge) else outcome.memory.total


def _predicted(outcomes: dict[int, Cost | TooLarge], memory: int) -> int:
    """Images whose need is the memory there is: by a line through two outcomes, or in proportion to one."""
    limits = [each.limit for each in outcomes.values() if isinstance(each, TooLarge) and each.limit]
    limit = min([memory, *limits])
    needs = sorted((n, need) for n, outcome in outcomes.items() if (need := _needed(outcome)) is not None)
    if not needs:
        return min(outcomes) // 2
    if len(needs) == 1:
        (images, need), outcome = needs[0], outcomes[needs[0][0]]
        fixed = _fixed(outcome) if isinstance(outcome, Cost) else 0
        return int(images * (limit - fixed) / max(1, need - fixed))
    # The two nearest to the limit: a compiler works harder to save memory where there is little.
    (first, low), (second, high) = sorted(sorted(needs, key=lambda each: abs(each[1] - limit))[:2])
    slope = (high - low) / (second - first)
    return int(first + (limit - low) / slope) if slope > 0 else first


def _fixed(cost: Cost) -> int:
    """Bytes that do not grow with the batch."""
    return cost.memory.total - cost.memory.temporaries - cost.memory.batch
