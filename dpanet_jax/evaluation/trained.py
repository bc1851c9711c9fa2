"""A trained model from its checkpoint alone, and what `evaluate` and `predict` do with it."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image

from dpanet_jax import checkpoint, models
from dpanet_jax import config as config_lib
from dpanet_jax.data import pipeline
from dpanet_jax.data.classes import Classes, colorize
from dpanet_jax.evaluation import figures, inference, report
from dpanet_jax.models.segmenter import init_variables

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class TrainedModel(inference.Predictor):
    """A Predictor with the weights, classes and config of one checkpoint.

    `base_size` takes the place of config.evaluation.base_size (None: that one's).
    """

    def __init__(self, folder: Path, base_size: int | None = None):
        about = checkpoint.load_about(folder)
        self.config = config_lib.from_dict(about["config"])
        self.step = int(folder.name) if folder.name.isdigit() else None
        self.folder = folder
        classes = Classes.from_dict(about["classes"])
        model = models.build(len(classes.names), **config_lib.model_options(self.config))
        crop_size = tuple(self.config.data.crop_size)
        self.base_size = self.config.evaluation.base_size if base_size is None else base_size
        like = jax.eval_shape(lambda rng: init_variables(model, rng, crop_size), jax.random.key(0))
        super().__init__(
            model,
            classes,
            base_size=self.base_size,
            variables=checkpoint.load_variables(folder, like),
        )


def load_trained(workdir_or_checkpoint, which: str = "best", base_size: int | None = None) -> TrainedModel:
    """See `dpanet_jax.load`."""
    return TrainedModel(checkpoint.find(workdir_or_checkpoint, which), base_size)


def evaluate_split(
    model: TrainedModel, split_name: str, data_dir: str | None, batch_size: int, progress=iter
):
    """The confusion matrix of a split of the model's data set.

    Raises DataError's family where the data set is not there, ConfigError where its classes are others.
    """
    split = pipeline.open_split(model.config.data.dataset, split_name, data_dir)
    if tuple(split.classes.names) != tuple(model.classes.names):
        raise config_lib.ConfigError(
            f"{split.name} has the classes {', '.join(split.classes.names)}; the model in {model.folder} was"
            f" trained on {', '.join(model.classes.names)}"
        )
    return inference.evaluate(model, split, batch_size, progress=progress)


def write_report(model: TrainedModel, matrix, workdir: Path, split_name: str) -> Path:
    """WORKDIR/evaluation/SPLIT_PROTOCOL.json and .csv; at another base_size than the run's, ..._SIZE.json."""
    config = model.config
    about = {
        "dataset": config.data.dataset,
        "split": split_name,
        "protocol": config.evaluation.protocol,
        "base_size": model.base_size,
        "checkpoint": str(model.folder),
        "step": model.step,
    }
    name = f"{split_name.replace('+', '_')}_{config.evaluation.protocol}"
    if model.base_size != config.evaluation.base_size:
        name += f"_{model.base_size}"
    stem = workdir / "evaluation" / name
    return report.write_files(matrix, model.classes.names, stem, about, config.evaluation.absent)


def find_images(source: Path) -> dict[Path, Path]:
    """{path relative to the folder, without suffix: file} for a file, or every image below a folder.

    Raises FileNotFoundError where there is none, ValueError where two differ only in their suffix.
    """
    if source.is_file():
        return {Path(source.stem): source}
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such file or folder")
    found: dict[Path, Path] = {}
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            name = path.relative_to(source).with_suffix("")
            if name in found:
                raise ValueError(f"{found[name]} and {path} would be written to the same name: rename one")
            found[name] = path
    if not found:
        raise FileNotFoundError(f"{source}: no image in it ({', '.join(IMAGE_SUFFIXES)})")
    return found


def predict_files(model: TrainedModel, source, output, progress=iter) -> dict[Path, Path]:
    """Writes for each image below `source` three PNGs under `output`, and returns the images found.

    `ids/NAME.png` holds class ids (8-bit grey), `color/NAME.png` the classes' colours, and
    `overlay/NAME.png` these over the image. An image that cannot be read is an error naming it.
    """
    images, output = find_images(Path(source)), Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: --output must be a folder")
    for name, path in progress(images.items()):
        image = read_image(path)
        labels = model.predict(image)
        for kind, picture in (
            ("ids", labels),
            ("color", colorize(labels, model.classes)),
            ("overlay", figures.overlay(image, labels, model.classes)),
        ):
            figures.save(picture, (output / kind / name).with_name(name.name + ".png"))
    return images


def read_image(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) RGB from an image file; ValueError naming the file where it is not one."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path}: not a readable image ({error})") from error
