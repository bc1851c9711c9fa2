"""Writes the data set `streets` as image files, in the layout of a user's own folder."""

import concurrent.futures
import contextlib
import csv
import functools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dpanet_jax import paths
from dpanet_jax.errors import UsageError
from dpanet_jax.progress import progress_bar
from dpanet_jax.streets.canvas import Label
from dpanet_jax.streets.scene import draw_scene

PARAMETERS = "streets.json"
# Raised whenever a seed gives other pictures, so that a folder of older ones is not taken for new.
VERSION = 1
SPLITS = ("train", "val")
_SCENES = 1 << 32


def scene_seed(seed: int, split: str, index: int) -> int:
    """The seed of one scene. No two of (seed, split, index) share one, for index < 2^32."""
    return (seed * len(SPLITS) + SPLITS.index(split)) * _SCENES + index


def write_streets(
    folder: str | Path,
    *,
    num_train: int,
    num_val: int,
    size: tuple[int, int],
    seed: int,
    classes: Sequence[tuple[str, Sequence[int]]],
    ignore_label: int,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Draws the scenes and writes them under `folder`; returns it as a Path.

    Writes images/{train,val}/NNNNN.png (RGB), labels/{train,val}/NNNNN.png (8-bit grey, ids 0..18 and
    `ignore_label`), classes.csv and streets.json (the parameters). size: (height, width). classes: the name
    and the colour (RGB) of every `canvas.Label`, in their order. processes: how many draw at once
    (default: 2, or 1 for a few scenes); the files do not depend on it. progress: show a bar.

    All is written beside `folder` and renamed at the end, so `folder` is whole or not there. A folder that
    was written with the same parameters is kept as it is.

    Raises UsageError (a ValueError) when `folder` holds anything else, or for parameters that make no data
    set; ValueError for other classes.
    """
    folder = Path(folder)
    height, width = (int(n) for n in size)
    parameters = {
        "version": VERSION,
        "num_train": int(num_train),
        "num_val": int(num_val),
        "size": [height, width],
        "seed": int(seed),
    }
    _require_drawn_classes([name for name, _ in classes])
    if min(num_train, num_val) < 1:
        raise UsageError(f"num_train and num_val must be at least 1, not {num_train} and {num_val}")
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, not {seed}")
    if _already_written(folder, parameters):
        return folder

    jobs = [
        (split, index)
        for split, count in zip(SPLITS, (num_train, num_val), strict=True)
        for index in range(count)
    ]
    if processes is None:
        processes = min(2, os.cpu_count() or 1) if len(jobs) >= 50 else 1
    with paths.new_folder(folder) as unfinished:
        for kind in ("images", "labels"):
            for split in SPLITS:
                (unfinished / kind / split).mkdir(parents=True)
        work = functools.partial(_write_scene, unfinished, (height, width), int(seed), ignore_label)
        with _each(work, jobs, processes) as done:
            for _ in progress_bar(
                done, desc="drawing streets", total=len(jobs), unit="scene", disable=not progress
            ):
                pass
        with (unfinished / "classes.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["name", "red", "green", "blue"])
            rows.writerows([name, *color] for name, color in classes)
        record = json.dumps(parameters, indent=2) + "\n"
        (unfinished / PARAMETERS).write_text(record, encoding="utf-8")
    return folder


def _require_drawn_classes(names: list[str]) -> None:
    drawn = [label.name.lower().replace("_", " ") for label in Label]
    if names != drawn:
        raise ValueError(f"the classes of the scenes are {drawn}, not {names}")


def _already_written(folder: Path, parameters: dict[str, Any]) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / PARAMETERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None  # Not a folder that `write_streets` has finished.
    if found == parameters:
        return True
    what = "hold streets"
    if isinstance(found, dict):
        differs = [name for name in parameters if found.get(name) != parameters[name]]
        what += f" with this {', '.join(differs)}"
    raise UsageError(
        f"{folder} is there and does not {what}: remove it, or name another folder for {parameters}"
    )


@contextlib.contextmanager
def _each(
    work: Callable[[tuple[str, int]], None], jobs: list[tuple[str, int]], processes: int
) -> Iterator[Iterable[None]]:
    if processes <= 1:
        yield map(work, jobs)
        return
    # A forked child could inherit locks of the parent's threads; a spawned one starts clean.
    # An executor, not a Pool: a Pool starts a child that cannot start again and again, for ever.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            yield pool.map(work, jobs, chunksize=4)
        except BaseException:
            # Without this, an interrupt would wait until every scene that is left has been drawn.
            pool.shutdown(cancel_futures=True)
            raise


def _write_scene(
    folder: Path, size: tuple[int, int], seed: int, ignore_label: int, job: tuple[str, int]
) -> None:
    split, index = job
    image, label = draw_scene(scene_seed(seed, split, index), size, ignore_label=ignore_label)
    name = f"{index:05d}.png"
    Image.fromarray(image).save(folder / "images" / split / name, compress_level=4)
    Image.fromarray(label).save(folder / "labels" / split / name)
