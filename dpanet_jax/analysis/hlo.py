"""The collectives of a compiled program, read from XLA's text of it."""

import collections
import dataclasses
import math
import re
from collections.abc import Collection, Iterator

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(rf"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(_KINDS)})(-start)?\(")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CALL = re.compile(r" call\(.*to_apply=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_FUSION = re.compile(r" fusion\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
# libtpu's name for a fused program that sums, of which each device keeps a part.
_SUM_AND_SPLIT = "all-reduce-scatter"
_NETWORK = re.compile(r"\bjvp\(\w+\)/")


@dataclasses.dataclass(frozen=True)
class Collective:
    """The collectives of one kind and purpose in one step of the program.

    count: how often one runs. bytes: of the arrays that one device hands in or gets, whichever is more, all
    runs together. group: devices that exchange with each other; of a permutation, the pairs that do.
    """

    kind: str
    purpose: str
    count: int
    bytes: int
    group: int

    @property
    def sent(self) -> float:
        """Bytes that all devices of a group must send together; see `plan`'s page in the docs.

        A sum needs each byte (group - 1) times on its way together and as often on its way back (Patarasuk
        and Yuan, 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").
        """
        others = self.group - 1
        return {
            "all-reduce": 2 * self.bytes * others,
            "all-gather": self.bytes * others,
            "reduce-scatter": self.bytes * others,
            "all-to-all": self.bytes * others,
            "collective-permute": self.bytes * self.group,
        }[self.kind]


def collectives(text: str, devices: int, norms: Collection[str] = ()) -> list[Collective]:
    """The collectives of one run of a program's entry, those in a loop as often as it turns.

    text: `compiled.as_text()`. devices: of the whole program. norms: names of the modules that are batch
    norms. The purpose is "batch norm" (its statistics, what its backward pass sums, and the gradients of its
    own parameters), "gradients" (the rest of a backward pass), "halos" (rows of a neighbour's part of an
    image), "activations" (other sums in the network's forward pass), "parameters" (those that devices keep a
    part of each) or "loss and metrics". Where the compiler has joined several sums in one, each array's bytes
    count for its own purpose, and the one for that of most.
    """
    found_computations, entry = computations(text)
    counts: collections.Counter[tuple[str, str, int]] = collections.Counter()
    sizes: collections.Counter[tuple[str, str, int]] = collections.Counter()
    seen: set[tuple[str, str, int]] = set()
    for name, times in executed(found_computations, entry):
        lines = found_computations[name]
        found = [line for line in lines if _INSTRUCTION.match(line)]
        purposes = _purposes(lines, norms) if found else {}
        for line in found:
            kind, group, parts = _parts(line, devices, purposes)
            if group < 2 and kind != "collective-permute":
                continue
            if channel := _CHANNEL.search(line):
                # libtpu spreads a collective over several fused programs, and writes it in each of them.
                key = (kind, channel[1], sum(parts.values()))
                if key in seen:
                    continue
                seen.add(key)
            if name.startswith(_SUM_AND_SPLIT):
                kind, parts = "reduce-scatter", {"gradients": sum(parts.values())}
            for purpose, size in parts.items():
                sizes[kind, purpose, group] += times * size
            counts[kind, max(parts, key=lambda purpose: parts[purpose]), group] += times
    return [Collective(kind, what, counts[kind, what, n], sizes[kind, what, n], n) for kind, what, n in sizes]


def _purposes(lines: list[str], norms: Collection[str]) -> dict[str, str]:
    """{name of an instruction: what it is for}, by the place in the network that XLA notes beside it."""
    found = {}
    for line in lines:
        name, op_name = _NAME.match(line), _OP_NAME.search(line)
        if name and op_name:
            is_norm = not set(op_name[1].split("/")).isdisjoint(norms)
            found[name[1]] = "batch norm" if is_norm else _purpose(op_name[1])
    return found


def _purpose(op_name: str) -> str:
    """What an instruction outside of batch norm is for. The network's forward pass is under its class."""
    if "transpose(" in op_name or op_name.endswith("sharding_constraint"):
        return "gradients"
    return "activations" if _NETWORK.search(op_name) else "loss and metrics"


def _parts(line: str, devices: int, purposes: dict[str, str]) -> tuple[str, int, dict[str, int]]:
    """A collective's kind, its group, and its bytes by purpose."""
    instruction, name = _INSTRUCTION.match(line), _NAME.match(line)
    assert instruction and name
    type_text, kind, is_start = instruction.groups()
    group = _group(line, devices)
    own = purposes.get(name[1], "loss and metrics")
    arrays = [_array_bytes(*shape) for shape in _SHAPE.findall(type_text)]
    operands = _OPERAND.findall(line[instruction.end() :].partition(")")[0])
    if is_start and kind in ("all-gather", "collective-permute"):
        # The type is (what goes in, what comes out, …): the larger one of the two counts.
        arrays = [max(arrays, default=0)]
    if kind == "collective-permute":
        return kind, group, {"halos": sum(arrays)}
    if kind == "all-gather" and _lays_parameters(line):
        return kind, group, {"parameters": sum(arrays)}
    factor = group if kind == "reduce-scatter" else 1
    parts: collections.Counter[str] = collections.Counter()
    for i, size in enumerate(arrays):
        operand = operands[i] if len(operands) == len(arrays) else ""
        parts[purposes.get(operand, own)] += factor * size
    return kind, group, dict(parts)


def _lays_parameters(line: str) -> bool:
    """Whether a gather is outside of the network and the loss, which are what is differentiated."""
    op_name = _OP_NAME.search(line)
    return op_name is None or "jvp(" not in op_name[1]


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """{name: lines} of every computation, and the name of the entry."""
    found: dict[str, list[str]] = {}
    entry, current = "", []
    for line in text.splitlines():
        header = None if line.startswith(" ") else _HEADER.match(line)
        if header and "HloModule" not in line:
            current = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith(" "):
            current.append(line)
    return found, entry


def executed(
    computations: dict[str, list[str]], name: str, times: int = 1, into_fusions: bool = True
) -> Iterator[tuple[str, int]]:
    """(name, how often it runs) of a computation, which runs `times` times, and of those that it calls."""
    if name not in computations:
        return
    yield name, times
    for line in computations[name]:
        if not into_fusions and _FUSION.search(line):
            continue
        trips = _TRIPS.search(line)
        for called in _called(line):
            turns = times * (int(trips[1]) if trips else 1)
            yield from executed(computations, called, turns, into_fusions)


def _called(line: str) -> list[str]:
    branches = _BRANCHES.search(line)
    named = re.findall(r"[\w.\-]+", branches[1]) if branches else []
    return [*_CALLED.findall(line), *_CALL.findall(line), *named]


def _array_bytes(dtype: str, shape: str) -> int:
    return bits(dtype) * math.prod(map(int, filter(None, shape.split(",")))) // 8


def bits(dtype: str) -> int:
    """Bits of an element of XLA's type of this name."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8


def _group(line: str, devices: int) -> int:
    """Devices in each group of a collective; of a permutation, the pairs that exchange."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return len(re.findall(r"\{", pairs[1]))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line):
        lengths = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(lengths[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    return devices
