"""Videos: read and written frame by frame with PyAV, an optional package (the extra `video`)."""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dpanet_jax import paths
from dpanet_jax.data.classes import Classes, colorize
from dpanet_jax.data.images import ImageError
from dpanet_jax.evaluation import figures
from dpanet_jax.evaluation.writers import Writers

# Nearly without visible loss; its size is that of a usual recording.
_QUALITY = {"crf": "18"}


def is_installed() -> bool:
    """Whether PyAV is."""
    return importlib.util.find_spec("av") is not None


def not_installed(path: paths.AnyPath) -> str:
    """What is said of a video where PyAV is not installed."""
    return f"{path}: a video, which takes PyAV to read: pip install 'dpanet_jax[video]' (or: pip install av)"


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame as viewers show it: uint8 (H, W, 3) RGB, and when: the pts in units of the time base."""

    pixels: np.ndarray
    pts: int


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video that has been opened. length: its number of frames, 0 where the file does not say.

    opened: what is to be closed.
    """

    path: paths.AnyPath
    length: int
    rate: Fraction
    time_base: Fraction
    batches: Iterator[list[Frame]]
    opened: contextlib.ExitStack


def open_video(path: paths.AnyPath, rows: Callable[[np.ndarray], int]) -> Clip:
    """Opens a video; its frames come in batches of `rows(a frame)`. Raises ImageError naming it."""
    if not is_installed():
        raise ImageError(not_installed(path))
    import av

    with contextlib.ExitStack() as opened:
        try:
            # As a file, for PyAV takes names in UTF-8 alone.
            file = opened.enter_context(path.open("rb"))
            container = opened.enter_context(av.open(file))
        except (av.FFmpegError, OSError) as error:
            raise ImageError(f"{path}: unreadable as a video ({error.strerror or error})") from error
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise ImageError(f"{path}: no picture in it")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        time_base = stream.time_base or 1 / rate
        frames = _frames(container, stream, path)
        return Clip(path, stream.frames, rate, time_base, _in_batches(frames, rows), opened.pop_all())


def _frames(container: Any, stream: Any, path: paths.AnyPath) -> Iterator[Frame]:
    import av

    stream.thread_type = "AUTO"
    last = -1
    first: int | None = None
    shape = None
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ImageError(f"{path}: damaged or cut short")
            for frame in packet.decode():
                # Phones store a video as the sensor saw it, and say how far it is to be turned.
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                if shape not in (None, pixels.shape):
                    raise ImageError(f"{path}: its frames change their size")
                shape = pixels.shape
                pts = last + 1 if frame.pts is None else frame.pts
                first = pts if first is None else first
                last = max(pts - first, last + 1)
                yield Frame(np.ascontiguousarray(pixels), last)
    except (av.FFmpegError, OSError) as error:
        raise ImageError(f"{path}: damaged or cut short ({error.strerror or error})") from error
    if shape is None:
        raise ImageError(f"{path}: no frame in it")


def _in_batches(frames: Iterator[Frame], rows: Callable[[np.ndarray], int]) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == rows(frame.pixels):
            yield batch
            batch = []
    if batch:
        yield batch


def segment(
    clip: Clip,
    targets: Mapping[str, paths.AnyPath],
    label: Callable[[list[np.ndarray]], list[np.ndarray]],
    classes: Classes,
    to_id: np.ndarray,
    writers: Writers,
) -> Iterator[int]:
    """Writes the `targets` of one video, all of them whole or none; yields the number of each frame.

    ids: a folder with a PNG for each frame. color and overlay: MP4 of the video's size and rate, without its
    sound. label: frames uint8 (H, W, 3) → their train ids uint8 (H, W). Raises ImageError naming the video.
    """
    with clip.opened, contextlib.ExitStack() as stack:
        # What ends first takes its place first, so the folder of ids comes last.
        ids = stack.enter_context(paths.replacing_folder(targets["ids"]))
        outputs = [stack.enter_context(paths.replacing(targets[kind])) for kind in ("color", "overlay")]
        color, overlay = (stack.enter_context(_Writer(file, clip)) for file in outputs)
        number = 0
        for batch in clip.batches:
            for frame, labels in zip(batch, label([frame.pixels for frame in batch]), strict=True):
                writers.submit(labels.size, figures.save, to_id[labels], ids / f"{number:06}.png")
                color.write(colorize(labels, classes), frame.pts)
                overlay.write(figures.overlay(frame.pixels, labels, classes), frame.pts)
                yield number
                number += 1
        writers.finish()


class _Writer:
    """An MP4 of frames uint8 (H, W, 3), at the times that they had."""

    def __init__(self, file: Path, clip: Clip) -> None:
        import av

        self._file = file.open("wb")
        self._container = av.open(self._file, "w", format="mp4")
        self._codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream: Any = None
        self._clip = clip
        self._count = 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()
        finally:
            self._file.close()

    def write(self, pixels: np.ndarray, pts: int) -> None:
        """Adds a frame."""
        import av

        if self._stream is None:
            self._stream = self._new_stream(pixels.shape[0], pixels.shape[1])
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        # MPEG-4's clock is too coarse for the times of some videos.
        exact = self._codec == "libx264"
        frame.pts = pts if exact else self._count
        frame.time_base = self._clip.time_base if exact else 1 / self._clip.rate
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def _new_stream(self, height: int, width: int) -> Any:
        exact = self._codec == "libx264"
        stream: Any = self._container.add_stream(
            self._codec, rate=self._clip.rate, options=_QUALITY if exact else {}
        )
        stream.height, stream.width = height, width
        # The form that every player takes has even sizes alone.
        stream.pix_fmt = "yuv420p" if height % 2 == width % 2 == 0 or not exact else "yuv444p"
        if exact:
            stream.codec_context.time_base = self._clip.time_base
        return stream
