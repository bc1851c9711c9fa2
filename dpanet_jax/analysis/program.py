"""Instructions and arrays of a compiled program, read from XLA's text of it, with their layouts' padding."""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping

from dpanet_jax.analysis import hlo
from dpanet_jax.errors import UsageError

_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\](?:\{([^{}]*)\})?")
_TILES = re.compile(r"T((?:\([\d,]+\))+)")
_TILE = re.compile(r"\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_LABELS = re.compile(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array as a program has it: `order` of its axes from the outermost to the innermost in memory.

    tiles: what the innermost axes are split in, each of them in parts of the one before. space: 0 is the
    device's main memory; on a TPU 1 is the fast one beside its units, and any other holds scalars.
    """

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()
    space: int = 0

    @property
    def unpadded(self) -> int:
        """Bytes of its values."""
        return self._bits() * math.prod(self.shape) // 8

    @property
    def padded(self) -> int:
        """Bytes with what the tiles add (https://openxla.org/xla/tiled_layout).

        A tile splits each of the innermost axes in two: the number of tiles, and the tile's length. The next
        tile splits what is innermost then.
        """
        lengths = [self.shape[axis] for axis in self.order]
        if not lengths:
            return self.unpadded
        for tile in self.tiles:
            lengths = [1] * (len(tile) - len(lengths)) + lengths
            outer, split = lengths[: -len(tile)], lengths[-len(tile) :]
            lengths = [*outer, *(-(-n // part) for n, part in zip(split, tile, strict=True)), *tile]
        return self._bits() * math.prod(lengths) // 8

    def _bits(self) -> int:
        return 0 if self.dtype == "token" else hlo.bits(self.dtype)


def arrays(text: str) -> list[Array]:
    """The arrays of a type as XLA writes it, those of a tuple one after another."""
    return [_array(*found) for found in _ARRAY.findall(text)]


def _array(dtype: str, shape: str, layout: str) -> Array:
    lengths = _numbers(shape)
    minor_to_major, _, rest = layout.partition(":")
    order = _numbers(minor_to_major)[::-1] or tuple(range(len(lengths)))
    space = _SPACE.search(rest)
    tiled = _TILES.search(rest)
    tiles = tuple(map(_numbers, _TILE.findall(tiled[1]))) if tiled else ()
    return Array(dtype, lengths, order, tiles, int(space[1]) if space else 0)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation. op_name: where in the network it is from, "" where XLA does not say."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    op_name: str
    called: str | None
    line: str

    @property
    def root(self) -> bool:
        """Whether the computation's result is this one's."""
        return self.line.lstrip().startswith("ROOT ")


Computation = Mapping[str, Instruction]


class Program:
    """The computations of `compiled.as_text()`, each read when it is asked for.

    Raises UsageError for a text without an entry, which is no such program.
    """

    def __init__(self, text: str) -> None:
        self._lines, self.entry = hlo.computations(text)
        if not self.entry:
            raise UsageError("the text has no ENTRY computation: give a compiled program as XLA writes it")
        self._read = functools.cache(
            lambda name: {each.name: each for each in _instructions(self._lines[name])}
        )

    def computation(self, name: str) -> Computation:
        """{name: instruction}, in their order.

        Raises KeyError where there is none of the name, and UsageError for a line that it cannot read.
        """
        return self._read(name)

    def executed(self) -> Iterator[tuple[Computation, int]]:
        """(computation, how often it runs) of the entry and of the loops and choices that it leads to.

        A fusion is one instruction of the computation that it is in. A loop runs once where XLA does not say
        how often, and every branch of a choice runs.
        """
        for name, times in hlo.executed(self._lines, self.entry, into_fusions=False):
            yield self.computation(name), times

    def inside(self, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """(its computation, instruction) of all that a fusion or a call runs; nothing of any other."""
        if instruction.opcode not in ("fusion", "call") or instruction.called not in self._lines:
            return
        computation = self.computation(instruction.called)
        for each in computation.values():
            yield computation, each
            yield from self.inside(each)


def _instructions(lines: list[str]) -> Iterator[Instruction]:
    for line in lines:
        if name := _NAME.match(line):
            after_type = _end_of_type(line, name.end())
            opcode = _OPCODE.match(line, after_type)
            if opcode is None:
                raise UsageError(f"an instruction of the program cannot be read: {line.strip()[:200]}")
            end = _closing(line, opcode.end() - 1)
            op_name, called = _OP_NAME.search(line, end), _CALLED.search(line, end)
            yield Instruction(
                name[1],
                opcode[1],
                tuple(arrays(line[name.end() : after_type])),
                tuple(_OPERAND.findall(line, opcode.end(), end)),
                op_name[1] if op_name else "",
                called[1] if called else None,
                line,
            )


def _end_of_type(line: str, start: int) -> int:
    if line[start] == "(":
        return _closing(line, start) + 1
    return line.index(" ", start)


def _closing(line: str, start: int) -> int:
    """Where the parenthesis that opens at `start` is closed."""
    depth = 0
    for i in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[i], 0)
        if depth == 0:
            return i
    return len(line)


def flops(instruction: Instruction, computation: Computation) -> float:
    """Operations of a convolution or a matrix product, as XLA counts them; 0 of any other.

    A multiplication and an addition are two. Those in the padding, and with the zeros between the elements
    of a dilated input, do not count.
    """
    if instruction.opcode == "dot":
        left = computation[instruction.operands[0]].results[0].shape
        contracted = _CONTRACTED.search(instruction.line)
        summed = [left[axis] for axis in _numbers(contracted[1])] if contracted else []
        return 2.0 * math.prod(instruction.results[0].shape) * math.prod(summed)
    if instruction.opcode != "convolution":
        return 0.0
    labels = _LABELS.search(instruction.line)
    assert labels
    left, kernel = (computation[name].results[0].shape for name in instruction.operands)
    out = instruction.results[0].shape
    total = 2.0 * out[labels[3].index("f")] * out[labels[3].index("b")] * kernel[labels[2].index("i")]
    window = _window(instruction.line)
    spatial = [axis for axis in labels[3] if axis.isdigit()]
    for axis in sorted(spatial, key=int):
        total *= _positions(
            left[labels[1].index(axis)],
            kernel[labels[2].index(axis)],
            out[labels[3].index(axis)],
            window,
            int(axis),
        )
    return total


def _window(line: str) -> dict[str, list[str]]:
    found = _WINDOW.search(line)
    parts = found[1].split() if found else []
    return {key: value.split("x") for key, value in (part.split("=") for part in parts)}


@functools.lru_cache(maxsize=4096)
def _count(length: int, size: int, outputs: int, stride: int, low: int, spread: int, dilation: int) -> int:
    inputs = (length - 1) * spread + 1
    count = 0
    for i, j in itertools.product(range(outputs), range(size)):
        at = i * stride - low + j * dilation
        count += 0 <= at < inputs and at % spread == 0
    return count


def _positions(length: int, size: int, outputs: int, window: Mapping[str, list[str]], axis: int) -> int:
    """Pairs of an output's and a kernel's position along an axis that meet an element of the input."""

    def of(key: str, default: str) -> str:
        return window[key][axis] if key in window else default

    low = int(of("pad", "0_0").split("_")[0])
    spread, dilation = int(of("lhs_dilate", "1")), int(of("rhs_dilate", "1"))
    return _count(length, size, outputs, int(of("stride", "1")), low, spread, dilation)
