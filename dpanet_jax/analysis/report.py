"""A plan in words and tables."""

from collections.abc import Iterable, Mapping
from typing import Any

_MEMORY = {
    "parameters": "parameters",
    "optimizer": "optimizer state",
    "statistics": "batch statistics",
    "batch": "the batch",
    "padding": "padding of these",
    "temporaries": "activations, gradients, work",
    "results": "results",
    "code": "the program",
}
# What of the state a device has only a part of.
_SHARDED = {
    "whole": [],
    "optimizer": ["a device keeps a part of the optimizer's state"],
    "parameters": ["a device keeps a part of the parameters and of the optimizer's state"],
}
_BOUNDS = {
    "arithmetic": "arithmetic",
    "memory": "memory traffic",
    "interconnect": "interconnect",
    "latency": "latency of the collectives",
}
_UNITS = {
    "flops": (1e-12, "TFLOP/s"),
    "memory_bandwidth": (1e-9, "GB/s"),
    "link_bandwidth": (1e-9, "GB/s a link, one way"),
    "hop_seconds": (1e6, "µs a hop"),
}
# What each bound divides by, as `Chip` names it.
_LIMITS_OF = {
    "arithmetic": "flops",
    "memory": "memory_bandwidth",
    "interconnect": "link_bandwidth",
    "latency": "hop_seconds",
}


def text(plan: Mapping[str, Any]) -> str:
    """The plan, as lines to print."""
    machine, step = plan["machine"], plan["step"]
    hosts = f"{machine['hosts']} host" + ("s" if machine["hosts"] > 1 else "")
    per_device, sharding = plan["images_of_a_device"], plan["sharding"]
    space = sharding["space"]
    held_by = "a device" if space == 1 else f"for each {space} devices"
    lines = [
        "",
        f"{plan['topology']}: {machine['chips']} × {machine['name']}, {hosts}",
        f"batch {plan['batch_size']}: {per_device} image{'s' if per_device > 1 else ''} {held_by}, "
        f"{'×'.join(map(str, plan['network']['crop_size']))}, {plan['network']['model']['dtype']}",
        *_SHARDED[sharding["state"]],
        "",
        *_memory(step, machine["memory"]),
    ]
    if "memory" in step:
        lines += ["", *_work(step), "", *_collectives(step["collectives"])]
        lines += ["", *_speed(step, plan, machine)]
    if plan["variants"]:
        lines += ["", *_variants(plan)]
    if "largest" in plan:
        lines += ["", *_largest(plan["largest"], machine["devices"] // space, held_by)]
    return "\n".join(lines)


def _memory(step: Mapping[str, Any], available: int) -> list[str]:
    if "refused" in step:
        needed, limit = step["refused"]["needed"], step["refused"]["limit"]
        how_much = (
            f": it needs {size(needed)} or more, and a device has {size(limit)}" if needed and limit else ""
        )
        return [f"does not fit{how_much}"]
    verdict = {True: "fits", False: "does not fit", None: "may fit"}[step["fits"]]
    of = f" of {size(available)}" if available else ""
    rows = [(words, size(step["memory"][key])) for key, words in _MEMORY.items() if step["memory"][key]]
    return [f"{verdict}: {size(step['total_bytes'])}{of} a device", *table(rows)]


def _work(step: Mapping[str, Any]) -> list[str]:
    rows = [
        ("parameters", f"{step['parameter_count']:,}"),
        ("operations, as compiled", count(step["flops"], "FLOP")),
        ("convolutions and products, as written", count(step["products"], "FLOP")),
    ]
    if step["traffic"] is not None:
        rows.append(("bytes read and written", size(step["traffic"])))
    return ["a step, on each device", *table(rows)]


def _collectives(collectives: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [
        (each["kind"], each["purpose"], str(each["count"]), size(each["bytes"]), f"over {each['group']}")
        for each in sorted(collectives, key=lambda each: -each["bytes"])
    ]
    return ["collectives of a step", *(table(rows) or ["  none"])]


def _speed(step: Mapping[str, Any], plan: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    seconds, rates = step["seconds"], machine["rates"]
    if not seconds["step"]:
        return ["no peak rates are known for this device, so that no time is said"]
    dtype = plan["network"]["model"]["dtype"]
    rows = [
        (words, f"{1e3 * seconds[key]:.2f} ms", _source(rates, _LIMITS_OF[key], dtype))
        for key, words in _BOUNDS.items()
        if seconds[key] is not None
    ]
    rate = step["images_per_second"]
    height, width = plan["network"]["crop_size"]
    each = step["images_per_second_of_a_host"]
    crops = size(each * height * width * 4)  # three bytes of a pixel and one of its label
    return [
        "a step takes at least, by",
        *table(rows),
        f"at best {rate:,.0f} images/s, held back by {_BOUNDS[seconds['limit']]}",
        f"each host must then read and augment {each:,.0f} images/s, {crops}/s of crops",
    ]


def _source(rates: Mapping[str, Any], key: str, dtype: str) -> str:
    value = rates[key][dtype] if key == "flops" else rates[key]
    factor, unit = _UNITS[key]
    return f"{value * factor:g} {unit} ({rates['sources'][key]})"


def _variants(plan: Mapping[str, Any]) -> list[str]:
    rows = [("", "a device", "FLOP", "traffic", "step at least")]
    for name, step in {"as asked": plan["step"], **plan["variants"]}.items():
        if "refused" in step:
            rows.append((name, "does not fit", "", "", ""))
            continue
        seconds = step["seconds"]["step"]
        rows.append(
            (
                name,
                size(step["total_bytes"]),
                count(step["flops"], "FLOP"),
                size(step["traffic"]) if step["traffic"] is not None else "",
                f"{1e3 * seconds:.2f} ms" if seconds else "",
            )
        )
    return ["the same batch with one option changed", *table(rows)]


def _largest(found: Mapping[str, Any], shards: int, held_by: str) -> list[str]:
    """`shards` are the devices, or groups of them that share images."""
    if not found["images"]:
        return ["no batch was found that fits"]
    refused = found["refused"]
    if found["is_exact"]:
        beyond = "the next larger one does not fit"
    elif refused:
        beyond = f"{refused * shards} does not fit, and between them nothing was compiled"
    else:
        beyond = "larger ones were not compiled"
    return [f"largest batch that fits: {found['images'] * shards}, {found['images']} {held_by}; {beyond}"]


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows as lines, the columns aligned; all rows have as many."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def size(number: float) -> str:
    """Bytes in words, by powers of 10: 6.14 GB."""
    return count(number, "B")


def count(number: float, unit: str) -> str:
    """A number with three digits and a prefix: 8.07 TFLOP."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {prefix}{unit}"
    return f"{number:.0f} {unit}"
