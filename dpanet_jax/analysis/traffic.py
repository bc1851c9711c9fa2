"""Bytes and operations of a compiled step by their cause, from XLA's text of the program.

Bytes are those that each instruction moves between the device's main memory and its units, with the padding
of their layouts. A fusion is one instruction: what happens inside of it moves nothing.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from dpanet_jax.analysis.program import Array, Computation, Instruction, Program, flops

COLLECTIVES, COPIES, NORM, LOSS, OPTIMIZER = (
    "collectives",
    "layout copies",
    "batch norm outside of products",
    "image, loss and resizes",
    "optimizer and metrics",
)
_STILL = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "conditional",
    "call", "partition-id", "replica-id", "opt-barrier", "async-start", "async-update",
}  # fmt: skip
# Custom calls of libtpu that name a piece of memory anew.
_NO_WORK = re.compile(r'custom_call_target="(?:ConcatBitcast|AllocateBuffer)"')
_MOVES_ONLY = {"copy", "transpose", "reshape", "pad", "slice", "concatenate", "reverse"}
_WITHOUT_WORK = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element"}
_REDUCTIONS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_PARTS_READ = {"slice", "dynamic-slice", "gather"}
_NETWORK = re.compile(r"jvp\(([A-Z]\w*)\)+/(.*)")
_NORM = re.compile(r"(?:^|_)bn\d*$")
_STAGE = re.compile(r"layer\d+")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Use:
    """An array that an instruction reads or writes, `times` times in a step."""

    array: Array
    written: bool
    times: int


@dataclasses.dataclass(frozen=True)
class Work:
    """One instruction of a step: its cause, what it reads and writes, and its operations, all runs together.

    cycles: what libtpu's compiler believes it takes; 0 where it says nothing.
    """

    cause: str
    name: str
    op_name: str
    uses: tuple[Use, ...]
    flops: float
    cycles: int

    @property
    def traffic(self) -> int:
        """Bytes to and from the main memory, with padding."""
        return sum(use.times * use.array.padded for use in self.uses if not use.array.space)

    @property
    def padding(self) -> int:
        """What of `traffic` is padding."""
        return sum(
            use.times * (use.array.padded - use.array.unpadded) for use in self.uses if not use.array.space
        )

    @property
    def fast(self) -> int:
        """Bytes to and from the fast memory, with padding."""
        return sum(use.times * use.array.padded for use in self.uses if use.array.space == 1)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The sums of `Work` of one cause. instructions: each once, however often it runs."""

    cause: str
    instructions: int
    traffic: int
    padding: int
    fast: int
    flops: float
    cycles: int


def by_cause(works: Iterable[Work]) -> list[Traffic]:
    """One sum for each cause, that of the most bytes first."""
    parts: dict[str, list[Work]] = collections.defaultdict(list)
    for work in works:
        parts[work.cause].append(work)
    return sorted((total(cause, part) for cause, part in parts.items()), key=lambda each: -each.traffic)


def total(cause: str, works: Iterable[Work]) -> Traffic:
    """The sum of all of them, under this name."""
    works = list(works)
    names = [field.name for field in dataclasses.fields(Traffic)][2:]
    return Traffic(cause, len(works), *(sum(getattr(each, name) for each in works) for name in names))


def works(program: Program) -> Iterator[Work]:
    """Every instruction of a step that moves or computes something."""
    for computation, times in program.executed():
        causes = _Causes(program, computation)
        for each in computation.values():
            if each.opcode in _STILL or each.opcode.endswith("-done") or _NO_WORK.search(each.line):
                continue
            cycles = _CYCLES.search(each.line)
            products = flops(each, computation) + sum(
                flops(inner, around) for around, inner in program.inside(each)
            )
            yield Work(
                cause=causes.of(each),
                name=each.name,
                op_name=each.op_name,
                uses=tuple(
                    dataclasses.replace(use, times=times) for use in _uses(program, computation, each)
                ),
                flops=times * products,
                cycles=times * int(cycles[1]) if cycles else 0,
            )


def _uses(program: Program, computation: Computation, each: Instruction) -> Iterator[Use]:
    if each.opcode == "copy-start":
        yield Use(each.results[0], True, 1)
        yield Use(each.results[1], False, 1)
        return
    if each.opcode == "slice-start":
        whole, part = each.results[0], each.results[-2]
        yield Use(part, True, 1)
        yield Use(dataclasses.replace(part, space=whole.space), False, 1)
        return
    if each.opcode.endswith("-start") and each.opcode != "all-reduce-start":
        # The type has what goes in before what comes out.
        count = len(each.operands)
        for i, array in enumerate(each.results[: 2 * count]):
            yield Use(array, i >= count, 1)
        return
    inner = program.computation(each.called) if each.opcode == "fusion" and each.called else None
    for i, name in enumerate(each.operands):
        for array in _read(inner, i, each, computation[name].results):
            yield Use(array, False, 1)
    for array in _written(inner, each, computation):
        yield Use(array, True, 1)


def _read(
    inner: Computation | None, i: int, each: Instruction, whole: tuple[Array, ...]
) -> tuple[Array, ...]:
    """What is read of operand i: all of it, or the parts that are cut out of it."""
    if inner is None:
        if each.opcode in _PARTS_READ and i == 0:
            return tuple(dataclasses.replace(each.results[0], space=array.space) for array in whole)
        return () if each.opcode == "dynamic-update-slice" and i == 0 else whole
    parameter = next(
        (one for one in inner.values() if one.opcode == "parameter" and f"parameter({i})" in one.line), None
    )
    if parameter is None:
        return whole
    users = [one for one in inner.values() if parameter.name in one.operands]
    parts: list[Array] = []
    for user in users:
        is_first = user.operands.index(parameter.name) == 0
        if user.opcode in _PARTS_READ and is_first:
            parts += user.results
        elif not (user.opcode == "dynamic-update-slice" and is_first and user.root):
            return whole
    return tuple(dataclasses.replace(part, space=array.space) for part in parts for array in whole[:1])


def _written(inner: Computation | None, each: Instruction, computation: Computation) -> Iterator[Array]:
    root = each if inner is None else next((one for one in inner.values() if one.root), each)
    if root.opcode == "dynamic-update-slice":
        update = (computation if inner is None else inner)[root.operands[1]].results[0]
        yield dataclasses.replace(update, space=each.results[0].space)
        return
    yield from each.results


class _Causes:
    """The cause of each instruction of a computation."""

    def __init__(self, program: Program, computation: Computation) -> None:
        self._program, self._computation = program, computation
        self._users: dict[str, list[str]] = collections.defaultdict(list)
        for each in computation.values():
            for name in each.operands:
                self._users[name].append(each.name)

    def of(self, each: Instruction) -> str:
        inside = list(self._program.inside(each))
        opcodes = {inner.opcode for _, inner in inside} | {each.opcode}
        if any(opcode.startswith(_REDUCTIONS) for opcode in opcodes):
            return COLLECTIVES
        if self._changes_layout(each, opcodes):
            return COPIES
        products = [inner.op_name for around, inner in inside if flops(inner, around) and inner.op_name]
        if products:
            return place(products[0], True)
        if each.op_name and not _is_argument(each.op_name):
            return place(each.op_name, bool(flops(each, self._computation)))
        return self._of_neighbours(each)

    def _changes_layout(self, each: Instruction, opcodes: set[str]) -> bool:
        if each.opcode == "fusion":
            return bool(opcodes & _MOVES_ONLY) and opcodes <= _MOVES_ONLY | _WITHOUT_WORK | {"fusion"}
        if each.opcode != "copy":
            return each.opcode in _MOVES_ONLY
        before = self._computation[each.operands[0]].results
        after = each.results[0]
        return not before or (before[0].order, before[0].tiles) != (after.order, after.tiles)

    def _of_neighbours(self, each: Instruction) -> str:
        """The cause of who reads it first, or else of who wrote what it reads: moves have no name."""
        named = self._named(each, self._readers) or self._named(each, lambda one: one.operands)
        return self.of(named) if named else OPTIMIZER

    def _readers(self, each: Instruction) -> Sequence[str]:
        return self._users[each.name]

    def _named(
        self, each: Instruction, following: Callable[[Instruction], Sequence[str]]
    ) -> Instruction | None:
        """The nearest instruction with a name."""
        seen, queue = {each.name}, collections.deque([each])
        while queue:
            for name in following(queue.popleft()):
                one = self._computation.get(name)
                if one is None or name in seen:
                    continue
                if one.op_name and not _is_argument(one.op_name):
                    return one
                seen.add(name)
                queue.append(one)
        return None


def _is_argument(op_name: str) -> bool:
    """Whether it is an argument's name, as XLA also gives it to copies of the argument."""
    return op_name.startswith(("state.", "batch[", "state[", "args[", "kwargs["))


def place(op_name: str, is_product: bool) -> str:
    """The cause that an instruction's place in the network is, by the name that JAX gives it."""
    network = _NETWORK.search(op_name)
    if network is None:
        return LOSS if "jvp(" in op_name else OPTIMIZER
    path = network[2].split("/")
    if not is_product and any(_NORM.search(part) for part in path):
        return NORM
    if path[0] == "backbone":
        stages = [found[0] for part in path if (found := _STAGE.match(part))]
        return f"backbone, {stages[0] if stages else 'stem'}"
    if path[0] == "head":
        attention = {"spa": "attention, SPA", "cpa": "attention, CPA", "nonlocal": "attention, non-local"}
        return next((attention[part] for part in path if part in attention), "head")
    return path[0].replace("_", " ") if len(path) > 1 else "head"
