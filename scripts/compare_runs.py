"""Evaluations side by side: python scripts/compare_runs.py WORKDIR WORKDIR … [--split=val]"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, help="runs that `evaluate` has been run on")
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    reports = {workdir.name: read(workdir, arguments.split) for workdir in arguments.workdirs}
    table = Table(title=f"IoU %, {arguments.split}")
    table.add_column("class")
    for name in reports:
        table.add_column(name, justify="right")
    for rows in zip(*(report["classes"] for report in reports.values()), strict=True):
        table.add_row(rows[0]["name"], *(percent(row["iou"]) for row in rows))
    table.add_section()
    for key, words in (("mean_iou", "mean IoU"), ("pixel_accuracy", "pixel accuracy")):
        table.add_row(words, *(percent(report[key]) for report in reports.values()))
    Console(width=100).print(table)


def read(workdir: Path, split: str) -> dict:
    path = workdir / "evaluation" / f"{split.replace('+', '_')}_whole.json"
    if not path.exists():
        sys.exit(f"{path} is not there: python -m dpanet_jax evaluate --workdir={workdir} --split={split}")
    return json.loads(path.read_text())


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


if __name__ == "__main__":
    main()
