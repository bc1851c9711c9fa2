"""What a comparison found: a table on the screen, a JSON file and a plot."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from dpanet_jax import paths, version
from dpanet_jax.compare.differences import (
    BARS,
    LOGITS_BAR_FLOAT32,
    ROUNDING_FLOOR,
    ROUNDING_RATIO,
    Number,
)

_WORDS = {
    "stages": "{name}, evaluation mode",
    "logits": "logits, evaluation mode",
    "loss": "{name}",
    "gradients": "gradients of {count} parameters, worst",
    "batch_stats": "batch statistics after step 1 ({count}), worst",
    "losses": "loss at each of {count} steps, worst",
    "parameters": "parameters after the last step ({count}), worst",
}
# Groups of many numbers, that the screen shows the worst of.
_MANY = ("gradients", "batch_stats", "losses", "parameters")


def content(numbers: list[Number], mean_iou: dict[str, Any] | None, about: dict[str, Any]) -> dict[str, Any]:
    """Everything that was found, for report.json; see the docstring of `write`."""
    listed = []
    for number in numbers:
        entry: dict[str, Any] = {"group": number.group, "name": number.name, "shape": list(number.shape)}
        for precision, difference in number.by_precision.items():
            values = {key: value for key, value in vars(difference).items() if value is not None}
            entry[precision] = {**values, "passed": number.verdict(precision)}
        listed.append(entry)
    verdicts = [n.verdict(precision) for n in numbers for precision in n.by_precision]
    passed = not any(verdict is False for verdict in verdicts) and (mean_iou is None or mean_iou["passed"])
    return {
        "passed": passed,
        **about,
        "provenance": version.provenance(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "torch")},
        },
        "device": f"Flax on {jax.devices()[0].device_kind}, PyTorch on cpu",
        "bars": {
            "float64, relative": BARS,
            "float32, logits, relative": LOGITS_BAR_FLOAT32,
            "float32, Flax's rounding as a multiple of PyTorch's": ROUNDING_RATIO,
            "float32, relative, below which rounding is not judged": ROUNDING_FLOOR,
        },
        "mean_iou": mean_iou,
        "numbers": listed,
    }


def write(content: dict[str, Any], numbers: list[Number], folder: paths.AnyPath) -> None:
    """FOLDER/report.json and report.png; files of the same name are replaced whole.

    In the JSON, "numbers" lists for every array its group, name, shape, and for each precision "absolute"
    and "relative" (largest over its elements; the latter as a part of its largest magnitude), with float32
    also each side's own distance from its float64 values, and "passed", null where nothing judges it.
    """
    paths.write_text(folder / "report.json", json.dumps(content, indent=1) + "\n")
    with paths.replacing(folder / "report.png") as unfinished:
        _plot(numbers, content, unfinished)


def show(content: dict[str, Any], numbers: list[Number]) -> None:
    """The table on the screen."""
    precisions = list(numbers[0].by_precision)
    shape = "×".join(map(str, content["images_of_a_batch"][:3]))
    table = Table(title=f"Flax and PyTorch: {content['weights']}, batches of {shape}")
    table.add_column("largest difference")
    for precision in precisions:
        table.add_column(f"{precision}\nabsolute", justify="right")
        table.add_column("\nrelative", justify="right")
        if precision == "float32" and "float64" in precisions:
            table.add_column("of it rounding\nFlax, PyTorch", justify="right")
        table.add_column("")
    for group in _WORDS:
        members = [number for number in numbers if number.group == group]
        for rows in [members] if group in _MANY else [[number] for number in members]:
            table.add_row(*_row(group, rows, precisions))
    console = Console()
    console = console if console.is_terminal else Console(width=130)
    console.print(table)
    figures = content["mean_iou"]
    if figures:
        console.print(
            f"mean IoU on {figures['split']} ({figures['images']} images), float32: "
            f"Flax {figures['flax']:.4f}, PyTorch {figures['torch']:.4f}, difference "
            f"{figures['difference']:.4f} points (bar {figures['bar']}): {_mark(figures['passed'])}; of "
            f"{figures['pixels']:,} pixels at least {figures['pixels_that_differ']:,} differ",
            highlight=False,
        )
    words = (
        "every number is within its bar, or is what float32's rounding explains"
        if content["passed"]
        else "NOT the same: see the lines marked off"
    )
    console.print(words)


def failures(content: dict[str, Any]) -> list[str]:
    """Names of the numbers of a report's content that are off, the mean IoU included."""
    names = [
        f"{number['group']} {number['name']} ({precision})"
        for number in content["numbers"]
        for precision in ("float64", "float32")
        if number.get(precision, {}).get("passed") is False
    ]
    figures = content["mean_iou"]
    return names + (["mean IoU"] if figures and not figures["passed"] else [])


def _row(group: str, members: list[Number], precisions: list[str]) -> list[str]:
    name = members[0].name
    if group == "loss":
        term = name.removeprefix("loss/")
        name = "loss, the sum" if term == name else f"loss, {term}"
    row = [_WORDS[group].format(name=name, count=len(members))]
    for precision in precisions:
        worst = max(members, key=lambda number: _sortable(number.by_precision[precision].relative))
        difference = worst.by_precision[precision]
        row += [f"{difference.absolute:.1e}", f"{difference.relative:.1e}"]
        if precision == "float32" and "float64" in precisions:
            row.append(f"{difference.flax_rounding:.0e}, {difference.torch_rounding:.0e}")
        verdicts = [number.verdict(precision) for number in members]
        row.append(_mark(None if None in verdicts else all(verdicts)))
    return row


def _sortable(value: float) -> float:
    return float("inf") if value != value else value


def _mark(verdict: bool | None) -> str:
    return {True: "ok", False: "off", None: "–"}[verdict]


def _plot(numbers: list[Number], content: dict[str, Any], path: Path) -> None:
    """Relative differences: of the forward pass and the losses, then of every array; the mean IoU on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 10), layout="constrained")
    FigureCanvasAgg(figure)
    single, gradients, statistics, parameters = figure.subplots(4, 1)
    colors = {"float64": "tab:blue", "float32": "tab:orange"}
    smallest = 1e-18  # where an exact 0 is drawn
    panels = (
        (single, "forward pass and loss", ("stages", "logits", "loss", "losses")),
        (gradients, "gradient of each parameter, from the input to the heads", ("gradients",)),
        (statistics, "each batch statistic after one step", ("batch_stats",)),
        (parameters, f"each parameter after {content['steps']} steps", ("parameters",)),
    )
    for axes, title, groups in panels:
        members = [number for number in numbers if number.group in groups]
        for precision in numbers[0].by_precision:
            values = [max(n.by_precision[precision].relative, smallest) for n in members]
            axes.semilogy(values, ".", color=colors[precision], label=precision, markersize=5)
        bars = [BARS[number.group] for number in members]
        axes.step(
            range(len(bars)), bars, where="mid", color="tab:blue", linewidth=0.8, label="bar of float64"
        )
        axes.set_title(title, fontsize=10)
        axes.set_ylabel("relative difference")
        axes.grid(True, axis="y", alpha=0.3)
    members = [n for n in numbers if n.group in panels[0][2]]
    single.set_xticks(range(len(members)), [n.name for n in members], rotation=45, ha="right", fontsize=8)
    single.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    model = content["config"]["model"]
    title = f"{model['name']}, {model['backbone']}: Flax against PyTorch ({content['weights']})"
    if content["mean_iou"]:
        title += "\nmean IoU on {split}: {flax:.4f} and {torch:.4f}".format(**content["mean_iou"])
    figure.suptitle(title)
    figure.savefig(path, dpi=90, format="png")
