"""Progress bars and messages: of one process only, where several compute together."""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm

from dpanet_jax import hosts


def is_main_process() -> bool:
    """Whether this process is the one that draws bars, prints and writes files."""
    return hosts.index() == 0


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm.tqdm:
    """tqdm on a terminal; where the output goes to a file, a line every half minute.

    Takes tqdm's own options. Processes other than the main one show nothing.
    """
    interval = 0.1 if sys.stderr.isatty() else 30
    disable = options.pop("disable", False) or not is_main_process()
    return tqdm.tqdm(iterable, mininterval=interval, dynamic_ncols=True, disable=disable, **options)


def message(text: str) -> None:
    """Prints a line between progress bars, from the main process only."""
    if is_main_process():
        tqdm.tqdm.write(text)
