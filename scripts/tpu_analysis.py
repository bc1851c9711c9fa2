"""Bytes and operations of a training step on a TPU, by cause. It is compiled ahead; no TPU is needed or used.

python scripts/tpu_analysis.py --backbone=resnet50 --size=768 --images=8 --output=FILE.json

The compiler is libtpu's, in an environment of its own (pip install 'dpanet_jax[plan]'). Bytes are of the main
memory of one device in one step, with the padding of layouts; those that XLA keeps in the fast memory beside
the units are a column of their own. Cycles are what the compiler believes. --keep writes its program, and
--program reads one, also of another version of this package, and compiles nothing.
"""

import argparse
import collections
import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Read when JAX is imported: nothing is computed, no TPU is opened, and no cloud is asked about one.
os.environ.update(
    JAX_PLATFORMS="cpu",
    JAX_ENABLE_COMPILATION_CACHE="false",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    TPU_SKIP_MDS_QUERY="1",
)

from dpanet_jax.analysis import machine as machine_lib
from dpanet_jax.analysis import traffic
from dpanet_jax.analysis.chips import Chip
from dpanet_jax.analysis.cost import Lowered, TooLarge, lower_step
from dpanet_jax.analysis.least import least
from dpanet_jax.analysis.program import Program
from dpanet_jax.config import Sections, default_config, sections
from dpanet_jax.errors import DPANetError, UsageError

Answer = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parsed(argv)
    try:
        answer = analyse(arguments)
    except DPANetError as error:
        sys.exit(f"tpu_analysis: {error}")
    print(text(answer))
    if arguments.output:
        arguments.output.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2", help="v5e:2x2 and the like; local: this machine's")
    parser.add_argument("--network", default="dpanet", choices=["dpanet", "fcn"])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=768, help="height and width of the images")
    parser.add_argument("--images", type=int, default=8, help="of each device")
    parser.add_argument("--num_classes", type=int, default=19)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--largest", type=int, default=8, help="so many paddings are named")
    parser.add_argument("--program", type=Path, help="the program's text, in place of compiling")
    parser.add_argument("--keep", type=Path, help="a file for the program's text")
    parser.add_argument("--output", type=Path, help="a file for all numbers, as JSON")
    return parser.parse_args(argv)


def options_of(arguments: argparse.Namespace) -> Sections:
    config = default_config()
    config.model.name, config.model.backbone = arguments.network, arguments.backbone
    config.model.dtype = arguments.dtype
    config.data.crop_size = (arguments.size, arguments.size)
    return sections(config)


def analyse(arguments: argparse.Namespace) -> Answer:
    """All numbers, as JSON can hold them."""
    machine = machine_lib.find(arguments.topology)
    devices = len(machine.devices)
    step = lower_step(
        options_of(arguments), arguments.num_classes, devices * arguments.images, machine.devices
    )
    words = program_text(arguments, step)
    works = list(traffic.works(Program(words)))
    whole = traffic.total("all", works)
    bytes_at_least = least(step.model, step.state, step.batch, devices)
    return {
        "topology": arguments.topology,
        "network": f"{arguments.network}, {arguments.backbone}",
        "size": arguments.size,
        "images": arguments.images,
        "dtype": arguments.dtype,
        "causes": [dataclasses.asdict(each) for each in traffic.by_cause(works)],
        "total": dataclasses.asdict(whole),
        "padding": paddings(works, arguments.largest),
        "full_resolution": full_resolution(works, arguments),
        "least": {**dataclasses.asdict(bytes_at_least), "total": bytes_at_least.total},
        "bounds": bounds(works, bytes_at_least.total, machine.chip, arguments) if machine.chip else None,
    }


def program_text(arguments: argparse.Namespace, step: Lowered) -> str:
    if arguments.program:
        return str(arguments.program.read_text(encoding="utf-8"))
    compiled = step.compile()
    if isinstance(compiled, TooLarge):
        raise UsageError(
            f"--images={arguments.images}: the step needs {compiled.needed} bytes of the {compiled.limit}"
            " that a device has; give fewer images"
        )
    words = str(compiled.as_text())
    if arguments.keep:
        arguments.keep.write_text(words, encoding="utf-8")
    return words


def paddings(works: Sequence[traffic.Work], largest: int) -> list[Answer]:
    """The kinds of array whose padding moves the most bytes, that of the most first."""
    sums: collections.Counter[Any] = collections.Counter()
    moved: collections.Counter[Any] = collections.Counter()
    for use in (use for work in works for use in work.uses if not use.array.space):
        kind = (use.array.dtype, use.array.shape, use.array.order, use.array.tiles)
        sums[kind] += use.times * (use.array.padded - use.array.bytes)
        moved[kind] += use.times * use.array.padded
    return [
        {"dtype": kind[0], "shape": kind[1], "order": kind[2], "bytes": moved[kind], "padding": padding}
        for kind, padding in sums.most_common(largest)
        if padding
    ]


def full_resolution(works: Sequence[traffic.Work], arguments: argparse.Namespace) -> Answer:
    """Arrays of all classes at the image's resolution: how often written and read, where."""
    size = arguments.images * arguments.size**2 * arguments.num_classes
    uses = [use for work in works for use in work.uses if math.prod(use.array.shape) == size]
    memories = {"main": 0, "fast": 1}
    return {
        f"{verb} in {name} memory": {
            "times": sum(use.times for use in uses if (use.written, use.array.space) == (written, space)),
            "bytes": sum(
                use.times * use.array.padded
                for use in uses
                if (use.written, use.array.space) == (written, space)
            ),
        }
        for name, space in memories.items()
        for verb, written in (("written", True), ("read", False))
    }


def bounds(
    works: Sequence[traffic.Work], bytes_at_least: int, chip: Chip, arguments: argparse.Namespace
) -> Answer:
    """Seconds of a step at least, by the published rates, and images/s of a device at most.

    each: every instruction takes the longer one of its operations and its bytes, one after another.
    """
    peak = chip.peak(arguments.dtype) or math.inf
    seconds = {
        "operations": sum(work.flops for work in works) / peak,
        "bytes": sum(work.bytes for work in works) / chip.memory_bandwidth,
        "least bytes": bytes_at_least / chip.memory_bandwidth,
        "each": sum(max(work.flops / peak, work.bytes / chip.memory_bandwidth) for work in works),
    }
    return {name: {"seconds": s, "images/s": arguments.images / s} for name, s in seconds.items()}


def text(answer: Answer) -> str:
    """The tables, as Markdown."""
    lines = [
        "| cause | instructions | GB | of it padding | GB in fast memory | TFLOP | million cycles |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in [*answer["causes"], answer["total"]]:
        lines.append(
            f"| {each['cause']} | {each['instructions']} | {each['bytes'] / 1e9:.2f} |"
            f" {each['padding'] / 1e9:.2f} | {each['fast'] / 1e9:.2f} | {each['flops'] / 1e12:.3f} |"
            f" {each['cycles'] / 1e6:.1f} |"
        )
    lines += [
        "",
        "| padded array | axes, outermost first | GB moved | of it padding |",
        "| --- | --- | --- | --- |",
    ]
    for each in answer["padding"]:
        shape, order = ("×".join(map(str, each[key])) for key in ("shape", "order"))
        lines.append(
            f"| {each['dtype']} {shape} | {order.replace('×', ', ')} | {each['bytes'] / 1e9:.2f} |"
            f" {each['padding'] / 1e9:.2f} |"
        )
    lines += ["", "| all classes at the image's resolution | times | GB |", "| --- | --- | --- |"]
    for name, each in answer["full_resolution"].items():
        lines.append(f"| {name} | {each['times']} | {each['bytes'] / 1e9:.2f} |")
    lines += ["", "| bytes at least | GB |", "| --- | --- |"]
    lines += [f"| {name} | {size / 1e9:.2f} |" for name, size in answer["least"].items()]
    if answer["bounds"]:
        lines += ["", "| bound by | ms | images/s of a device |", "| --- | --- | --- |"]
        for name, each in answer["bounds"].items():
            lines.append(f"| {name} | {each['seconds'] * 1e3:.1f} | {each['images/s']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
