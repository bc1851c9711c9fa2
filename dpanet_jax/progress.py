"""The progress bar that every verb shows."""

import sys

import tqdm


def progress_bar(iterable=None, **options):
    """tqdm on a terminal; where the output goes to a file, a line every half minute."""
    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm.tqdm(iterable, mininterval=interval, dynamic_ncols=True, **options)
