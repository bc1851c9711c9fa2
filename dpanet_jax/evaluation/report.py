"""A confusion matrix as a table for people and files for programs."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dpanet_jax import paths
from dpanet_jax.evaluation.boundary import BoundaryIoU
from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.evaluation.trained import TrainedModel
from dpanet_jax.paths import AnyPath
from dpanet_jax.version import provenance

_SUMMARY = {
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}


def print_table(
    matrix: ConfusionMatrix,
    names: Sequence[str],
    title: str,
    absent: str = "exclude",
    boundary: BoundaryIoU | None = None,
) -> None:
    """Per class IoU, accuracy, share of the labelled pixels and boundary IoU, in percent, then the means."""
    figures = matrix.compute(absent)
    table = Table(title=escape(title))
    table.add_column("class")
    for column in ("IoU %", "accuracy %", "pixels %"):
        table.add_column(column, justify="right")
    if boundary is not None:
        table.add_column("boundary IoU %", justify="right")
    edges = boundary.compute() if boundary is not None else None
    total = max(1, int(figures["labels"].sum()))
    for k, name in enumerate(names):
        note = "" if figures["present"][k] else " (absent)"
        table.add_row(
            escape(name) + note,
            percent(figures["iou"][k]),
            percent(figures["accuracy"][k]),
            percent(figures["labels"][k] / total),
            *([percent(edges["iou"][k])] if edges else []),
        )
    table.add_section()
    for key, words in _SUMMARY.items():
        table.add_row(words, percent(figures[key]), "", "")
    if edges:
        table.add_row("mean boundary IoU", percent(edges["mean"]), "", "")
    show(table)


def show(table: Table) -> None:
    """Prints a table. In a log file it keeps its width, whatever the terminal that the log is made in."""
    console = Console()
    (console if console.is_terminal else Console(width=100)).print(table)


def percent(value: float) -> str:
    """A fraction in [0, 1] in words for a table; NaN is a dash."""
    return "–" if value != value else f"{100 * value:.2f}"


def write_files(
    matrix: ConfusionMatrix,
    names: Sequence[str],
    stem: AnyPath,
    about: dict[str, Any],
    absent: str = "exclude",
    boundary: BoundaryIoU | None = None,
) -> AnyPath:
    """Writes STEM.json (every figure, the counts and `about`) and STEM.csv (the table per class).

    Fractions in [0, 1]; NaN (no such pixel) is null in JSON and empty in CSV. Returns the JSON's path.
    """
    figures = matrix.compute(absent)
    edges = boundary.compute() if boundary is not None else None
    content = {
        **about,
        "absent": absent,
        **{key: number(figures[key]) for key in _SUMMARY},
        **({"mean_boundary_iou": number(edges["mean"])} if edges else {}),
        "classes": [
            {
                "name": name,
                "iou": number(figures["iou"][k]),
                "accuracy": number(figures["accuracy"][k]),
                "pixels": int(figures["labels"][k]),
                **({"boundary_iou": number(edges["iou"][k])} if edges else {}),
            }
            for k, name in enumerate(names)
        ],
        "confusion_matrix": matrix.counts.tolist(),
    }
    rows = [["class", "iou", "accuracy", "pixels", *(["boundary_iou"] if edges else [])]]
    rows += [["" if v is None else v for v in row.values()] for row in content["classes"]]
    table = io.StringIO()
    csv.writer(table).writerows(rows)
    paths.write_text(stem.with_name(stem.name + ".csv"), table.getvalue())
    return paths.write_text(stem.with_name(stem.name + ".json"), json.dumps(content, indent=1) + "\n")


def number(value: float) -> float | None:
    """A figure as JSON has it: NaN is null."""
    return None if value != value else float(value)


def report_stem(model: TrainedModel, workdir: AnyPath, split_name: str) -> AnyPath:
    """WORKDIR/evaluation/SPLIT_PROTOCOL; at another base_size or window than the run's, …_SIZE.

    See `write_files`.
    """
    name = f"{split_name.replace('+', '_')}_{model.protocol.name}"
    if model.base_size != model.config.evaluation.base_size:
        name += f"_{model.base_size}"
    window = _window(model)
    own = tuple(model.config.evaluation.window)
    if window not in (None, own if any(own) else tuple(model.config.data.crop_size)):
        name += f"_{window[0]}x{window[1]}"
    return workdir / "evaluation" / name


def _window(model: TrainedModel) -> Any:
    """(height, width) of the protocol's windows; None where it has none."""
    return getattr(model.protocol, "window", None)


def write_report(
    model: TrainedModel,
    matrix: ConfusionMatrix,
    workdir: AnyPath,
    split_name: str,
    boundary: BoundaryIoU | None = None,
    benchmark: Mapping[str, Any] | None = None,
) -> AnyPath:
    """`report_stem` with .json and .csv. The protocol is the one that was run. Returns the JSON's path.

    benchmark: {name: figures that only the JSON has}, as a benchmark of this name counts them.
    """
    config = model.config
    about = {
        "dataset": config.data.dataset,
        "split": split_name,
        "protocol": model.protocol.name,
        "base_size": model.base_size,
        **({"window": list(_window(model))} if _window(model) else {}),
        "checkpoint": str(model.folder),
        "step": model.step,
        "provenance": provenance(),
        **(benchmark or {}),
    }
    stem = report_stem(model, workdir, split_name)
    return write_files(matrix, model.classes.names, stem, about, config.evaluation.absent, boundary)
