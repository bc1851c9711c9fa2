"""The search for the largest batch, by a compiler whose memory is known."""

from collections.abc import Callable

import pytest

from dpanet_jax.analysis.cost import Cost, Memory, TooLarge
from dpanet_jax.analysis.search import largest_batch

LIMIT = 16_000


def cost(total: int, fixed: int = 1000) -> Cost:
    memory = Memory(fixed, 0, 0, 0, 0, temporaries=total - fixed, results=0, code=0)
    return Cost(memory, 0, 0, 0, None, ())


def compiler(need: Callable[[int], int], says_how_much: bool = True) -> Callable[[int], Cost | TooLarge]:
    """One that refuses what does not fit, as a TPU's, or with its need if `says_how_much`."""

    def compile_images(images: int) -> Cost | TooLarge:
        if need(images) <= LIMIT:
            return cost(need(images))
        return TooLarge(need(images), LIMIT) if says_how_much else TooLarge(None, None)

    return compile_images


@pytest.mark.parametrize("says_how_much", [True, False])
@pytest.mark.parametrize("start", [1, 4, 7, 30])
@pytest.mark.parametrize(
    "need",
    [
        lambda images: 1000 + 2000 * images,
        lambda images: 3000 + 900 * images,
        # A compiler that works harder when there is little memory.
        lambda images: 1000 + 2500 * images - max(0, 700 * (images - 4)),
    ],
)
def test_it_finds_the_largest(need: Callable[[int], int], start: int, says_how_much: bool) -> None:
    compile_images = compiler(need, says_how_much)
    found = largest_batch(
        compile_images, {start: compile_images(start)}, memory=LIMIT, unit=1, max_compiles=9
    )
    expected = max(images for images in range(100) if need(images) <= LIMIT)
    assert (found.images, found.refused, found.is_exact(1)) == (expected, expected + 1, True)


def test_a_straight_line_needs_two_compilations() -> None:
    asked = []

    def compile_images(images: int) -> Cost | TooLarge:
        asked.append(images)
        return compiler(lambda n: 1000 + 2000 * n)(images)

    largest_batch(compile_images, {1: cost(3000)}, memory=LIMIT, unit=1, max_compiles=9)
    assert asked == [7, 8]


def test_it_stops_when_it_may_not_go_on_and_says_how_far_it_came() -> None:
    def need(images: int) -> int:
        return 1000 + 100 * images + 10 * images**2

    found = largest_batch(compiler(need), {1: cost(need(1))}, memory=LIMIT, unit=1, max_compiles=1)
    assert found.images == 1 and found.refused == 136 and not found.is_exact(1)
    assert found.tried == {1: 1110, 136: need(136)}


def test_batches_are_multiples_of_the_parts_that_they_are_computed_in() -> None:
    compile_images = compiler(lambda images: 1000 + 2000 * images)
    found = largest_batch(compile_images, {4: cost(9000)}, memory=LIMIT, unit=4, max_compiles=9)
    assert (found.images, found.refused) == (4, 8)


def test_none_fits() -> None:
    compile_images = compiler(lambda images: 20_000 + images)
    found = largest_batch(compile_images, {4: compile_images(4)}, memory=LIMIT, unit=1, max_compiles=9)
    assert (found.images, found.refused) == (0, 1)
