"""What was measured, as a table and as JSON."""

import dataclasses
import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.timing import Times
from dpanet_jax import cores

# Of the environment: those that change what is measured.
_VARIABLES = ("XLA_FLAGS", "GLIBC_TUNABLES", "JAX_DEFAULT_MATMUL_PRECISION")


@dataclasses.dataclass(frozen=True)
class Row:
    """One work: the times of each way to do it, by name; the first is ours.

    amount: how much of `unit` a turn does; 0 where only the time counts. flops: operations of a turn, None
    where they are not counted. limit: operations a second of the machine at best, in the row's type; product:
    those of its best matrix product alone.
    """

    part: str
    work: str
    times: Mapping[str, Times]
    amount: float = 0.0
    unit: str = ""
    flops: float | None = None
    limit: float | None = None
    product: float | None = None

    @property
    def ours(self) -> tuple[str, Times]:
        """The first way, with its name."""
        return next(iter(self.times.items()))

    @property
    def best_of_others(self) -> tuple[str, Times] | None:
        """The way of the others with the shortest median; None where there is none."""
        others = list(self.times.items())[1:]
        return min(others, key=lambda item: item[1].median) if others else None

    @property
    def ratio(self) -> float | None:
        """Our median over that of the fastest other way: below 1 we are faster."""
        other = self.best_of_others
        return self.ours[1].median / other[1].median if other else None

    @property
    def of_limit(self) -> float | None:
        """Our operations a second (the median's) over the machine's best, from 0 to 1."""
        return self._share(self.limit)

    @property
    def of_product(self) -> float | None:
        """The same over the best matrix product; above 1 where convolutions are faster."""
        return self._share(self.product)

    def _share(self, rate: float | None) -> float | None:
        return None if self.flops is None or not rate else self.flops / self.ours[1].median / rate

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything that the row holds, and what is computed from it."""
        times = {
            name: {"median": each.median, "least": each.least, "seconds": each.seconds}
            for name, each in self.times.items()
        }
        rate = self.amount / self.ours[1].median if self.amount else None
        shares = {"of_limit": self.of_limit, "of_product": self.of_product}
        return dataclasses.asdict(self) | {"times": times, "ratio": self.ratio, "rate": rate} | shares


def table(rows: Iterable[Row]) -> str:
    """Markdown: median and least of ours, the fastest other, the ratio of medians, the shares of limits."""
    lines = [
        "| part | work | ours, median (least) | others, median (least) | ratio | of the limit"
        " | of the product |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        other = row.best_of_others
        cells = (
            row.part,
            row.work,
            _in_words(row.ours[1], row),
            f"{other[0]}: {_in_words(other[1], row)}" if other else "",
            f"{row.ratio:.2f}" if row.ratio is not None else "",
            *(f"{100 * share:.0f}%" if share is not None else "" for share in (row.of_limit, row.of_product)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_words(times: Times, row: Row) -> str:
    words = f"{_seconds(times.median)} ({_seconds(times.least)})"
    return f"{words}, {row.amount / times.median:.1f} {row.unit}/s" if row.amount else words


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 10 else f"{1000 * seconds:.4g} ms"


def machine() -> dict[str, Any]:
    """What the numbers depend on: devices, cores, versions."""
    import jax

    variables = environment()
    names = ("jax", "jaxlib", "flax", "torch", "numpy")
    versions = {name: metadata.version(name) for name in names if _is_installed(name)}
    return {
        "devices": [device.device_kind for device in jax.devices()],
        "processor": _processor(),
        "cores": cores.usable(),
        "python": platform.python_version(),
        "versions": versions,
        "variables": {name: variables[name] for name in _VARIABLES if name in variables},
    }


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def write_json(path: Path, rows: Iterable[Row], **about: Any) -> None:
    """Everything as JSON; `about` is said of the whole run."""
    content = {"machine": machine(), **about, "rows": [row.to_dict() for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n")
