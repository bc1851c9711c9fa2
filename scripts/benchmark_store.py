"""What each form of `prepare --store` costs on your images: size, pixels, reading time.

python scripts/benchmark_store.py --dataset=folder --source=DIR

Every form is prepared in a temporary folder, $TMPDIR's, which must hold the largest: raw takes three bytes a
pixel. So take a part of a large data set, for a published one with --partial. Reading is what training does
before it augments: a record is fetched, image and label are decoded. Its time is this process's time on the
processors, so that other programs change little, and of several passes the least.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dpanet_jax.data.pipeline import Split, open_split
from dpanet_jax.data.prepare import prepare
from dpanet_jax.errors import DPANetError

_FORMS = ["source", "png", "raw", "jpeg:100", "jpeg:95", "jpeg:90", "jpeg:80"]
_PASSES = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="folder")
    parser.add_argument("--source", required=True, type=Path)
    parser.add_argument("--partial", action="store_true", help="of a published data set: a part of it")
    parser.add_argument("--split", default="train")
    parser.add_argument("--count", type=int, default=16, help="so many examples of the split are read")
    parser.add_argument("--forms", nargs="+", default=_FORMS, metavar="STORE[:QUALITY]")
    arguments = parser.parse_args()
    options = {"partial": True} if arguments.partial else {}
    table = Table(title=f"{arguments.dataset}, {arguments.split}: images as they are stored")
    for column in ("--store", "MB an image", "mean error", "largest error", "images/s a core"):
        table.add_column(column, justify="right")
    reference: list[np.ndarray] = []
    with tempfile.TemporaryDirectory(prefix="dpanet_jax_") as folder:
        for form in dict.fromkeys(["source", *arguments.forms]):
            store, _, quality = form.partition(":")
            place = Path(folder, form.replace(":", "_"))
            prepare(
                arguments.dataset,
                place,
                arguments.source,
                quiet=True,
                store=store,
                store_quality=int(quality) if quality else None,
                **options,
            )
            split = open_split(arguments.dataset, arguments.split, place)
            count = min(arguments.count, len(split))
            pixels = [split[i]["image"] for i in range(count)]
            reference = reference or pixels
            errors = [np.abs(a.astype(np.int16) - b) for a, b in zip(pixels, reference, strict=True)]
            records = place.glob(f"**/*-{arguments.split}.array_record*")
            size = sum(file.stat().st_size for file in records) / len(split)
            mean, most = np.mean([e.mean() for e in errors]), np.max([e.max() for e in errors])
            rate = count / seconds(split, count)
            table.add_row(form, f"{size / 1e6:.2f}", f"{mean:.2f}", f"{most}", f"{rate:.1f}")
    Console(width=100).print(table)


def seconds(split: Split, count: int) -> float:
    """Of processor time, to read the first `count` examples once."""
    passes = []
    for _ in range(_PASSES):
        start = time.process_time()
        for i in range(count):
            split[i]
        passes.append(time.process_time() - start)
    return min(passes)


if __name__ == "__main__":
    try:
        main()
    except DPANetError as error:
        sys.exit(str(error))
