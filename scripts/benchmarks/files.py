"""From files to files: a split evaluated, a folder predicted, batches read; PyTorch's own loop over the same.

The images are street scenes that the project draws. The weights are random: no figure is of interest here.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import torch_settings
from benchmarks.report import Row
from benchmarks.timing import take_turns, turn
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


def train(folder: Path, backbone: str) -> None:
    """`folder`/run: a DPANet after one step on the scenes."""
    config = config_lib.default_config()
    config.data.dataset, config.data.data_dir = "streets", str(folder / "data")
    config.data.crop_size, config.data.base_size = (96, 96), SIZE[1]
    config.model.backbone = backbone
    config.training.steps, config.training.epochs, config.training.batch_size = 1, 0, BATCH
    config.evaluation.batch_size, config.pictures = BATCH, 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        loop.train(config, folder / "run")


def end_to_end(
    backbone: str,
    images: int,
    torch_device: str | None,
    measured: Callable[[dict[str, Way]], Measured | None],
) -> Iterator[Row]:
    """`evaluate` of a split and `predict` of a folder, with so many images of 480×360."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), SIZE, images)
        train(Path(folder), backbone)
        for part in ("evaluation", "prediction"):
            ways = {"ours": Way("files", "ours", {"part": part, "folder": folder})}
            if torch_device and backbone.startswith("resnet"):
                for channels_last in (False, True):
                    options = {"device": torch_device, "channels_last": channels_last}
                    name = "PyTorch channels_last" if channels_last else "PyTorch"
                    ways[name] = Way("files", "theirs", {"part": part, "folder": folder, **options})
            if found := measured(ways):
                work = f"dpanet {backbone} float32, {images} PNGs of {SIZE[1]}×{SIZE[0]}"
                yield Row(part, work, found.times, images, "images")


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
        with torch.inference_mode():
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


def reading(images: int, rounds: int) -> Iterator[Row]:
    """Training batches from the disk, by size, stored form, threads and worker processes."""
    for size in (SIZE, LARGE):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            draw(folder, size, images)
            _as_jpeg(folder / "scenes", folder / "jpeg")
            prepare("folder", folder / "data", source=folder / "jpeg", quiet=True)
            crop = (SIZE[0], SIZE[0]) if size == SIZE else (768, 768)
            augmentation = Augmentation(crop_size=crop, base_size=size[1])
            for kind, dataset in (("PNG", "streets"), ("JPEG", "folder")):
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

                    def case(batches: Any = batches) -> None:
                        for _ in range(4):
                            next(batches)

                    how = f"{workers} workers" if workers else f"{threads} threads"
                    work = f"{kind} {size[1]}×{size[0]}, crops {crop[1]}×{crop[0]}, {how}"
                    times = take_turns({"ours": turn(case)}, rounds)
                    batches.close()
                    yield Row("input", work, times, 16, "images")


def _as_jpeg(source: Path, target: Path) -> None:
    """The scenes as a `folder` data set of JPEG images, their labels as they are."""
    shutil.copytree(source, target)
    for file in list((target / "images").rglob("*.png")):
        Image.open(file).save(file.with_suffix(".jpg"), quality=JPEG_QUALITY)
        file.unlink()
