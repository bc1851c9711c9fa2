"""Predictions for image and video files, as PNGs and videos.

ids/NAME.png      the ids of the label files (8-bit grey)      ids/NAME/000000.png …   of a video's frames
color/NAME.png    the classes' colours                         color/NAME.mp4
overlay/NAME.png  these over the image                         overlay/NAME.mp4
"""

import collections
import concurrent.futures
import dataclasses
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpanet_jax import cores
from dpanet_jax.data import images
from dpanet_jax.data.classes import IGNORE_LABEL, Classes, colorize
from dpanet_jax.data.finder import VIDEO_SUFFIXES
from dpanet_jax.errors import DPANetError, OutOfMemory, UsageError, is_out_of_memory
from dpanet_jax.evaluation import figures, protocols, together, video
from dpanet_jax.evaluation.trained import TrainedModel
from dpanet_jax.evaluation.writers import Writers
from dpanet_jax.paths import AnyPath, Remote, anywhere, require_writable

KINDS = ("ids", "color", "overlay")


class PredictError(DPANetError):
    """Some files could not be predicted; the text has a line for each."""


@dataclasses.dataclass
class Predicted:
    """What `predict_files` did. failed: one text for each file that was not read; it begins with the file."""

    images: int = 0
    videos: int = 0
    failed: list[str] = dataclasses.field(default_factory=list)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def add_image(self) -> None:
        """Counts one more image; threads call it."""
        with self._lock:
            self.images += 1

    def require_all(self) -> None:
        """Raises PredictError where a file failed."""
        if self.failed:
            total = self.images + self.videos + len(self.failed)
            lines = [f"{len(self.failed)} of {total} files could not be predicted", *sorted(self.failed)]
            raise PredictError(self.failed[0] if total == 1 else "\n  ".join(lines))


def earlier_outputs(output: AnyPath) -> list[AnyPath]:
    """The folders that hold no input, though they may lie among it: what is written, now and before."""
    return [output, *(output / kind for kind in KINDS)]


def check_output(output: AnyPath, found: Mapping[Path, AnyPath]) -> None:
    """Raises UsageError where the outputs for `found` cannot be written under the folder `output`.

    A file of that name is there, two inputs would write one file, an output would replace an input, or all
    are videos and what reads them is not installed.
    """
    _require_folder(output)
    inputs = {_real(path): path for path in found.values()}
    written: dict[AnyPath, AnyPath] = {}
    folders = {name: path for name, path in found.items() if is_video(path)}
    if folders and not video.is_installed() and len(folders) == len(found):
        raise UsageError(video.not_installed(next(iter(folders.values()))))
    roots = {kind: anywhere(_real(output / kind)) for kind in KINDS}
    for name, path in found.items():
        below = next((parent for parent in name.parents if parent in folders), None)
        if below is not None:
            raise UsageError(f"{folders[below]} and {path}: both write below ids/{below}; rename one")
        for target in _targets(name, path, roots).values():
            if target in written:
                raise UsageError(f"{written[target]} and {path}: both write {target}; rename one")
            written[target] = path
            if str(target) in inputs:
                raise UsageError(
                    f"{inputs[str(target)]} would be replaced by a prediction; choose another --output"
                )


def _require_folder(output: AnyPath) -> None:
    """Raises UsageError, or RemoteError, where `output` is no folder and cannot become one."""
    if isinstance(output, Remote):
        if output.is_file():
            raise UsageError(f"{output} is a file: --output must be a folder")
        require_writable(output)
        return
    there = next(folder for folder in (output, *output.parents) if os.path.lexists(folder))
    if not there.is_dir():
        what = (
            "--output must be a folder"
            if there == output
            else f"--output={output} must be a folder below one"
        )
        raise UsageError(f"{there} is a file: {what}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{there}: nothing may be written there")


def _real(path: AnyPath) -> str:
    return os.path.realpath(path) if isinstance(path, Path) else str(path)


def is_video(path: AnyPath) -> bool:
    """Whether a file is taken for a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _targets(name: Path, path: AnyPath, roots: Mapping[str, AnyPath]) -> dict[str, AnyPath]:
    """{kind: where it goes} of one input; a video's ids go to a folder."""
    suffix = ".mp4" if is_video(path) else ".png"
    targets = {kind: (root / name).with_name(name.name + suffix) for kind, root in roots.items()}
    return targets | {"ids": roots["ids"] / name} if is_video(path) else targets


def predict_files(
    model: TrainedModel,
    found: Mapping[Path, AnyPath],
    output: AnyPath,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    train_ids: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    num_threads: int = 0,
) -> Predicted:
    """Writes for each file of `found` (what `data.finder.find` returns) ids, colours and overlay.

    They lie under `output`, as this module says. The ids are those of the label files, `classes.raw_ids`;
    with `train_ids` those of the network, 0 to K-1; 255 is no prediction. A file that cannot be read is left
    out, and named in what is returned. `progress` wraps an iterable with an item for each image, and one for
    each video with an item for each frame. `tell` takes a line that is said before the work: for how many
    sizes the network is compiled. `num_threads` read images; 0 is `cores.readers()`. Raises OSError where an
    output cannot be written, and OutOfMemory.
    """
    done = Predicted()
    to_id = np.full(256, IGNORE_LABEL, np.uint8)  # A protocol may predict nothing for a pixel.
    to_id[: len(model.classes)] = np.arange(len(model.classes)) if train_ids else model.classes.raw_ids
    stills = {name: path for name, path in found.items() if not is_video(path)}
    roots = {kind: output / kind for kind in KINDS}
    with Writers() as writers:

        def finish(name: Path, image: np.ndarray, labels: np.ndarray) -> None:
            targets = _targets(name, found[name], roots)
            writers.submit(
                labels.size, _write, targets, image, labels, model.classes, to_id, found[name], done
            )

        if stills:
            by_size = together.by_size(stills)
            sizes = sum(isinstance(size, tuple) for size in by_size)
            if line := protocols.compilations(model.protocol, sizes):
                tell(line)
            for _ in progress(
                _Sized(_predict_images(model, stills, by_size, finish, done, num_threads), len(stills))
            ):
                pass
            writers.finish()
        for name, path in found.items():
            if is_video(path):
                _predict_video(model, path, _targets(name, path, roots), to_id, writers, progress, done)
    return done


class _Sized:
    """An iterable whose length is known before it has run, for a progress bar."""

    def __init__(self, items: Iterator[Any], length: int) -> None:
        self._items, self._length = items, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return self._items


def _predict_images(
    model: TrainedModel,
    found: Mapping[Path, AnyPath],
    by_size: together.BySize,
    finish: Callable[[Path, np.ndarray, np.ndarray], None],
    done: Predicted,
    num_threads: int,
) -> Iterator[Path]:
    """Yields the name of each image once its labels are handed to `finish`, or it has failed."""
    batches = together.of_one_size if model.protocol.fills_up else together.of_any_sizes
    with concurrent.futures.ThreadPoolExecutor(num_threads or cores.readers()) as readers:
        for names, size, futures in _read_ahead(readers, found, batches(by_size)):
            read: dict[Path, np.ndarray] = {}
            for name, future in zip(names, futures, strict=True):
                try:
                    read[name] = future.result()
                except DPANetError as error:
                    done.failed.append(str(error))
                except OSError as error:
                    done.failed.append(f"{found[name]}: unreadable ({error.strerror or error})")
            for name, labels in _labels(model, read, size).items():
                if labels is None:
                    height, width = read[name].shape[:2]
                    done.failed.append(
                        f"{found[name]}: {width}x{height} is more than the device's memory holds; "
                        "--base_size resizes it for the network"
                    )
                else:
                    finish(name, read[name], labels)
            yield from names


def _read_ahead(
    readers: concurrent.futures.Executor,
    found: Mapping[Path, AnyPath],
    batches: Iterable[tuple[list[Path], int]],
) -> Iterator[tuple[list[Path], int, list["concurrent.futures.Future[np.ndarray]"]]]:
    """Each batch while the next one is read."""
    ahead: collections.deque[Any] = collections.deque()
    for names, rows in batches:
        ahead.append((names, rows, [readers.submit(images.read_image, found[name]) for name in names]))
        if len(ahead) > 1:
            yield ahead.popleft()
    yield from ahead


def _labels(model: TrainedModel, read: Mapping[Path, np.ndarray], rows: int) -> dict[Path, np.ndarray | None]:
    """{name: uint8 (H, W) train ids}; None where the device's memory does not hold the image."""
    by_shape: dict[tuple[int, ...], list[Path]] = {}
    for name, image in read.items():  # A header may have said another size than the pixels have.
        by_shape.setdefault(image.shape, []).append(name)
    labels: dict[Path, np.ndarray | None] = {}
    groups = list(by_shape.values()) if model.protocol.fills_up else [list(read)] if read else []
    for names in groups:
        found = batch_labels(model, [read[name] for name in names], rows)
        if found is None:
            one_by_one = [batch_labels(model, [read[name]], 1) for name in names]
            labels |= {name: one[0] if one else None for name, one in zip(names, one_by_one, strict=True)}
        else:
            labels |= dict(zip(names, found, strict=True))
    return labels


def batch_labels(model: TrainedModel, batch: list[np.ndarray], rows: int) -> list[np.ndarray] | None:
    """uint8 (H, W) train ids of images, put through the network together; None where memory does not suffice.

    Where the protocol compiles for a batch's shape, they are of one shape, and make a batch of `rows`.
    """
    given: Any = batch
    if model.protocol.fills_up:
        devices, rows = jax.local_device_count(), max(rows, len(batch))
        rows = -(-rows // devices) * devices if rows > 1 else 1
        given = np.zeros((rows, *batch[0].shape), np.uint8)
        for row, image in enumerate(batch):
            given[row] = image
    try:
        return list(model.protocol.ids(given, model.device_variables)[: len(batch)])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if model.protocol.fills_up:
            return None
        # Every image is put through in batches of the same shape.
        raise OutOfMemory(f"the memory does not suffice to predict: lower {model.protocol.lower}") from error


def _write(
    targets: Mapping[str, AnyPath],
    image: np.ndarray,
    labels: np.ndarray,
    classes: Classes,
    to_id: np.ndarray,
    path: AnyPath,
    done: Predicted,
) -> None:
    try:
        figures.save(to_id[labels], targets["ids"])
        figures.save(colorize(labels, classes), targets["color"])
        figures.save(figures.overlay(image, labels, classes), targets["overlay"])
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        done.failed.append(f"{path}: the name of its output is too long; rename it")
    else:
        done.add_image()


def _predict_video(
    model: TrainedModel,
    path: AnyPath,
    targets: Mapping[str, AnyPath],
    to_id: np.ndarray,
    writers: Writers,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
    done: Predicted,
) -> None:
    def label(frames: list[np.ndarray]) -> list[np.ndarray]:
        labels = batch_labels(model, frames, together.rows_of_a_batch(frames[0].shape[:2]))
        if labels is None:
            raise images.ImageError(f"{path}: its frames are more than the device's memory holds")
        return labels

    try:
        clip = video.open_video(path, lambda frame: together.rows_of_a_batch(frame.shape[:2]))
        steps = video.segment(clip, targets, label, model.classes, to_id, writers)
        for _ in progress(_Sized(steps, clip.length) if clip.length else steps):
            pass
        done.videos += 1
    except OutOfMemory:
        raise  # No other file would fare better.
    except DPANetError as error:
        done.failed.append(str(error))
