"""Writes the data set `streets` as image files, in the layout of a user's own folder."""

import concurrent.futures
import contextlib
import csv
import functools
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from dpanet_jax.data.classes import CITYSCAPES
from dpanet_jax.data.streets.scene import draw_scene
from dpanet_jax.progress import progress_bar

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
    num_train: int = 600,
    num_val: int = 100,
    size: tuple[int, int] = (96, 192),
    seed: int = 0,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Draws the scenes and writes them under `folder`; returns it as a Path.

    Writes images/{train,val}/NNNNN.png (RGB), labels/{train,val}/NNNNN.png (8-bit grey, train ids
    0..18 and 255), classes.csv and streets.json (the parameters). size: (height, width).
    processes: how many draw at once (default: 2, or 1 for a few scenes); the files do not depend on
    it. All is written beside `folder` and renamed at the end, so `folder` is whole or not there. A
    folder that was written with the same parameters is kept as it is.

    Raises ValueError when `folder` holds anything else, or for parameters that make no data set.
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
    if min(num_train, num_val) < 1:
        raise ValueError(f"num_train and num_val must be at least 1, not {num_train} and {num_val}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    if _already_written(folder, parameters):
        return folder

    jobs = [
        (split, index)
        for split, count in zip(SPLITS, (num_train, num_val), strict=True)
        for index in range(count)
    ]
    if processes is None:
        processes = min(2, os.cpu_count() or 1) if len(jobs) >= 50 else 1
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        staging.chmod(0o777 & ~_umask())
        for kind in ("images", "labels"):
            for split in SPLITS:
                (staging / kind / split).mkdir(parents=True)
        work = functools.partial(_write_scene, staging, (height, width), int(seed))
        with _each(work, jobs, processes) as done:
            for _ in progress_bar(
                done, desc="drawing streets", total=len(jobs), unit="scene", disable=not progress
            ):
                pass
        with (staging / "classes.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["name", "red", "green", "blue"])
            for name, color in zip(CITYSCAPES.names, CITYSCAPES.colors.tolist(), strict=True):
                rows.writerow([name, *color])
        (staging / PARAMETERS).write_text(json.dumps(parameters, indent=2) + "\n", encoding="utf-8")
        # An empty folder of that name gives way; one that filled up meanwhile makes this fail.
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return folder


def _already_written(folder: Path, parameters: dict) -> bool:
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
    raise ValueError(
        f"{folder} is there and does not {what}: remove it, or name another folder for {parameters}"
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _each(work, jobs: list, processes: int) -> Iterator:
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


def _write_scene(folder: Path, size: tuple[int, int], seed: int, job: tuple[str, int]) -> None:
    split, index = job
    image, label = draw_scene(scene_seed(seed, split, index), size)
    name = f"{index:05d}.png"
    Image.fromarray(image).save(folder / "images" / split / name, compress_level=4)
    Image.fromarray(label).save(folder / "labels" / split / name)
