"""From files to files: a split evaluated, a folder predicted, batches read; PyTorch's own loop over the same.

The images are street scenes that the project draws. The weights are random: no figure is of interest here.
"""

import contextlib
import dataclasses
import io
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from benchmarks import torch_settings
from benchmarks.networks import Work
from benchmarks.report import Row
from benchmarks.timing import Case, take_turns, turn
from benchmarks.ways import Measurable, Measured, Way
from dpanet_jax import config as config_lib
from dpanet_jax.data import finder, pipeline
from dpanet_jax.data.options import Augmentation
from dpanet_jax.data.prepare import prepare
from dpanet_jax.data.split import open_split
from dpanet_jax.evaluation.evaluate import evaluate
from dpanet_jax.evaluation.predict import predict_files
from dpanet_jax.evaluation.trained import TrainedModel, load_trained
from dpanet_jax.interop.torch import to_state_dict
from dpanet_jax.training import loop

SIZE = (360, 480)
LARGE = (1024, 2048)
BATCH = 8
JPEG_QUALITY = 95


def draw(folder: Path, size: tuple[int, int], images: int) -> None:
    """Street scenes of this size, prepared in `folder`/data; their files are in `folder`/scenes."""
    prepare(
        "streets",
        folder / "data",
        source=folder / "scenes",
        num_train=BATCH,
        num_val=images,
        size=size,
        quiet=True,
    )


def config_of(work: Work, folder: Path) -> ConfigDict:
    """That of a run that does the work on what `draw` left in a folder."""
    config = work.config
    config.data.dataset, config.data.data_dir = "streets", str(folder / "data")
    config.data.base_size, config.evaluation.batch_size = SIZE[1], BATCH
    config.training.epochs, config.pictures = 0, 0
    return config


def train(folder: Path, work: Work) -> None:
    """`folder`/run: the network of the work after one step on the scenes."""
    config = config_of(dataclasses.replace(work, batch_size=BATCH, size=96), folder)
    config.training.steps = 1
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        loop.train(config, folder / "run")


def end_to_end(
    work: Work,
    images: int,
    torch_device: str | None,
    measured: Callable[[dict[str, Way]], Measured | None],
) -> Iterator[Row]:
    """`evaluate` of a split and `predict` of a folder, with so many images of 480×360."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), SIZE, images)
        train(Path(folder), work)
        for part in ("evaluation", "prediction"):
            ways = {"ours": Way("files", "ours", {"part": part, "folder": folder})}
            if torch_device and work.has_twin:
                for channels_last in (False, True):
                    options = {"device": torch_device, "channels_last": channels_last}
                    name = "PyTorch channels_last" if channels_last else "PyTorch"
                    ways[name] = Way("files", "theirs", {"part": part, "folder": folder, **options})
            if found := measured(ways):
                name = f"{work.network} {work.backbone} {work.dtype}, {images} PNGs of {SIZE[1]}×{SIZE[0]}"
                yield Row(part, name, found.times, images, "images")


def ours(part: str, folder: str) -> Measurable:
    """This package's `part`, "evaluation" or "prediction", of what `draw` and `train` left in a folder."""
    place = Path(folder)
    model = load_trained(place / "run")
    split = open_split("streets", "val", place / "data")
    found, output = finder.find(place / "scenes" / "images" / "val"), place / "predictions"

    def evaluation() -> None:
        evaluate(model.protocol, model.device_variables, split, BATCH)

    def prediction() -> None:
        shutil.rmtree(output, ignore_errors=True)
        predict_files(model, found, output)

    return Measurable({"evaluation": evaluation, "prediction": prediction}[part])


def theirs(part: str, folder: str, device: str, channels_last: bool) -> Measurable:
    """The twin's, with the same weights."""
    twin = TwinLoop(load_trained(Path(folder) / "run"), Path(folder), device, channels_last)
    return Measurable(getattr(twin, part))


class TwinLoop:
    """A plain loop over files, as a PyTorch program has it: a DataLoader with two workers, and Pillow."""

    def __init__(self, model: TrainedModel, folder: Path, device: str, channels_last: bool) -> None:
        import torch

        from dpanet_jax.interop import twin

        torch_settings.set_up(device)
        self.classes, self.device, self.folder = model.classes, device, folder
        options = config_lib.sections(model.config).model
        self.dtype: str = options["dtype"]
        self.network: Any = twin.build(len(model.classes), **options)
        weights = {name: torch.from_numpy(np.array(x)) for name, x in to_state_dict(model.variables).items()}
        self.network.load_state_dict(weights)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        network: Any = self.network.to(device)
        network.to(memory_format=self.memory_format).eval()
        files = sorted((folder / "scenes" / "images" / "val").iterdir())
        labels = [folder / "scenes" / "labels" / "val" / file.name for file in files]
        self.loader: Any = torch.utils.data.DataLoader(
            Files(files, labels),  # type: ignore[arg-type]
            BATCH,
            num_workers=2,
            persistent_workers=True,
            multiprocessing_context="spawn",
        )

    def _predicted(self) -> Iterator[tuple[Any, Any, Any, list[str]]]:
        import torch

        from dpanet_jax.imagenet import MEAN, STD

        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (MEAN, STD))
        with torch.inference_mode(), torch_settings.computing_in(self.dtype, self.device):
            for images, labels, names in self.loader:
                x = images.to(self.device).permute(0, 3, 1, 2).float() / 255
                x = ((x - mean) / std).contiguous(memory_format=self.memory_format)
                ids = self.network.predict(x, images.shape[1:3])
                yield images, labels, ids, names

    def evaluation(self) -> None:
        """The confusion matrix of the split."""
        import torch

        count = len(self.classes)
        matrix = torch.zeros(count * count, dtype=torch.int64, device=self.device)
        for _, labels, ids, _ in self._predicted():
            labels = labels.to(self.device).long()
            valid = labels != 255
            matrix += torch.bincount(labels[valid] * count + ids[valid], minlength=count * count)
        matrix.cpu()

    def prediction(self) -> None:
        """Ids, colours and overlay of every image, as PNGs."""
        colors = self.classes.colors.astype(np.uint8)
        output = self.folder / "twin"
        shutil.rmtree(output, ignore_errors=True)
        for kind in ("ids", "color", "overlay"):
            (output / kind).mkdir(parents=True)
        for images, _, ids, names in self._predicted():
            for image, predicted, name in zip(images.numpy(), ids.cpu().numpy(), names, strict=True):
                color = colors[predicted]
                overlay = (image.astype(np.uint16) + color) // 2
                for kind, array in (("ids", predicted), ("color", color), ("overlay", overlay)):
                    Image.fromarray(array.astype(np.uint8)).save(output / kind / name)


class Files:
    """A map-style data set of image and label files."""

    def __init__(self, images: list[Path], labels: list[Path]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, str]:
        image = np.array(Image.open(self.images[i]).convert("RGB"))
        return image, np.array(Image.open(self.labels[i])), self.images[i].name


def reading(images: int, rounds: int, with_torch: bool) -> Iterator[Row]:
    """Training batches from the disk, by size, stored form, threads and worker processes.

    PyTorch's `DataLoader` reads the same files, and has no threads: none but the one of the loop.
    """
    for size in (SIZE, LARGE):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            draw(folder, size, images)
            _as_jpeg(folder / "scenes", folder / "jpeg")
            prepare("folder", folder / "data", source=folder / "jpeg", quiet=True)
            crop = (SIZE[0], SIZE[0]) if size == SIZE else (768, 768)
            augmentation = Augmentation(crop_size=crop, base_size=size[1])
            for kind, dataset, source in (("PNG", "streets", "scenes"), ("JPEG", "folder", "jpeg")):
                split = open_split(dataset, "train", folder / "data")
                for threads, workers in ((1, 0), (2, 0), (4, 0), (1, 1), (1, 2)):
                    batches = pipeline.train_batches(
                        split,
                        augmentation,
                        batch_size=4,
                        seed=0,
                        num_threads=threads,
                        num_workers=workers,
                    )
                    # Not in turns with PyTorch's: either would read ahead while the other is timed.
                    times = take_turns({"ours": turn(_four(batches))}, rounds)
                    batches.close()
                    if with_torch and threads == 1:
                        loader = crops(folder / source, augmentation, workers)
                        times |= take_turns({"PyTorch": turn(_four(loader))}, rounds)
                        del loader  # Its workers end.
                    how = f"{workers} workers" if workers else f"{threads} threads"
                    work = f"{kind} {size[1]}×{size[0]}, crops {crop[1]}×{crop[0]}, {how}"
                    yield Row("input", work, times, 16, "images")


def _four(batches: Iterator[Any]) -> Case:
    def case() -> None:
        for _ in range(4):
            next(batches)

    return case


def crops(folder: Path, augmentation: Augmentation, workers: int) -> Iterator[Any]:
    """Endless batches of 4 of a `DataLoader` with so many workers; see `Crops`."""
    import torch

    files = sorted((folder / "images" / "train").iterdir())
    labels = [folder / "labels" / "train" / f"{file.stem}.png" for file in files]
    dataset: Any = Crops(files, labels, augmentation)
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**6)
    options: dict[str, Any] = {"multiprocessing_context": "spawn"} if workers else {}
    loader: Any = torch.utils.data.DataLoader(dataset, 4, sampler=sampler, num_workers=workers, **options)
    return iter(loader)


class Crops:
    """Random crops as PyTorch programs make them: an image is flipped, scaled whole, padded, and then cut."""

    def __init__(self, files: list[Path], labels: list[Path], augmentation: Augmentation) -> None:
        self.files, self.labels, self.augmentation = files, labels, augmentation

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        image: Image.Image = Image.open(self.files[i]).convert("RGB")
        label: Image.Image = Image.open(self.labels[i])
        (crop_h, crop_w), (low, high) = self.augmentation.crop_size, self.augmentation.scale_range
        if random.random() < 0.5:
            image, label = ImageOps.mirror(image), ImageOps.mirror(label)
        scale = self.augmentation.base_size * random.uniform(low, high) / max(image.size)
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        label = label.resize((width, height), Image.Resampling.NEAREST)
        border = (0, 0, max(0, crop_w - width), max(0, crop_h - height))
        image, label = ImageOps.expand(image, border), ImageOps.expand(label, border, fill=255)
        left, top = random.randint(0, image.width - crop_w), random.randint(0, image.height - crop_h)
        box = (left, top, left + crop_w, top + crop_h)
        return np.array(image.crop(box)), np.array(label.crop(box))


def _as_jpeg(source: Path, target: Path) -> None:
    """The scenes as a `folder` data set of JPEG images, their labels as they are."""
    shutil.copytree(source, target)
    for file in list((target / "images").rglob("*.png")):
        Image.open(file).save(file.with_suffix(".jpg"), quality=JPEG_QUALITY)
        file.unlink()
