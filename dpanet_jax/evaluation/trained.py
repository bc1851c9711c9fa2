"""A trained model from its checkpoint alone. Imports neither TFDS nor Grain."""

from typing import Any

import jax
import numpy as np

from dpanet_jax import checkpoint, compilation_cache, models
from dpanet_jax import config as config_lib
from dpanet_jax.data.classes import Classes
from dpanet_jax.errors import UsageError
from dpanet_jax.evaluation import protocols
from dpanet_jax.evaluation.options import replaced
from dpanet_jax.models.precision import computing_in, param_dtype_for
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.paths import AnyPath, PathLike

_ATTEMPTS = 3  # to read a checkpoint of a run that is training meanwhile


class ImageArrayError(UsageError, TypeError):
    """What was given as an image is none; the text says what it is."""


class TrainedModel:
    """The weights, classes and config of one checkpoint, and the protocol that it predicts by.

    classes: names, colours, ids. config: the run's. step: of the checkpoint. folder: where it lies.
    protocol and base_size: the run's own, unless they were given; so are the window and how many at a time.
    """

    def __init__(
        self,
        folder: AnyPath,
        base_size: int | None = None,
        protocol: str | None = None,
        window: tuple[int, ...] | None = None,
        window_batch: int | None = None,
    ) -> None:
        about = checkpoint.load_about(folder)
        self.config = config_lib.from_dict(about["config"], checkpoint.written_by(about))
        self.step = int(folder.name) if folder.name.isdigit() else None
        self.folder = folder
        self.classes = Classes.from_dict(about["classes"])
        options = config_lib.sections(self.config)
        evaluation = replaced(options.evaluation, window=window, window_batch=window_batch)
        param_dtype = param_dtype_for(options.model.get("dtype", "float32"))
        model = models.build(len(self.classes.names), param_dtype=param_dtype, **options.model)
        with computing_in(model.dtype):
            like = jax.eval_shape(lambda rng: init_variables(model, rng), jax.random.key(0))
        # As NumPy arrays, for the export; on the devices, for the protocol.
        self.variables = checkpoint.load_variables(folder, like)
        self.protocol = protocols.make(
            evaluation.protocol if protocol is None else protocol,
            model,
            base_size=evaluation.base_size if base_size is None else base_size,
            options=evaluation,
            crop_size=options.data.crop_size,
        )
        self.base_size = self.protocol.base_size
        self.device_variables = self.protocol.put(self.variables)

    def check_classes(self, name: str, classes: Classes) -> None:
        """Raises ConfigError where a split, called `name`, has other classes than the model."""
        if tuple(classes.names) != tuple(self.classes.names):
            raise config_lib.ConfigError(
                f"{name} has the classes {', '.join(classes.names)}; the model in {self.folder} was"
                f" trained on {', '.join(self.classes.names)}"
            )

    def predict(self, images: Any) -> Any:
        """One image uint8 (H, W, 3) RGB → uint8 (H, W) train ids; a list of any sizes → a list.

        A train id is the class's place in `classes.names`; `classes.raw_ids[ids]` are the label files' own.
        255 is no prediction: `center_crop` has none outside of its crop.

        Raises ImageArrayError for another type or shape.
        """
        if isinstance(images, list | tuple):
            return [self.predict(image) for image in images]
        return self.protocol.ids(check_image(images)[None], self.device_variables)[0]

    def probabilities(self, images: Any) -> Any:
        """One image uint8 (H, W, 3) RGB → float32 (H, W, K); a list → a list.

        They sum to 1 over K; outside of the crop of `center_crop` they are 0.

        Raises ImageArrayError for another type or shape.
        """
        if isinstance(images, list | tuple):
            return [self.probabilities(image) for image in images]
        return self.protocol.probabilities(check_image(images)[None], self.device_variables)[0]


def load_trained(
    workdir_or_checkpoint: PathLike,
    which: str | int = "best",
    base_size: int | None = None,
    protocol: str | None = None,
    window: tuple[int, ...] | None = None,
    window_batch: int | None = None,
) -> TrainedModel:
    """See `dpanet_jax.load`. Raises CheckpointError, with those that are whole, where it is damaged."""
    compilation_cache.enable()
    for attempt in range(_ATTEMPTS):
        folder = checkpoint.find(workdir_or_checkpoint, which)
        try:
            return TrainedModel(folder, base_size, protocol, window, window_batch)
        except checkpoint.Damaged as error:
            if folder.is_dir() or attempt == _ATTEMPTS - 1:
                raise checkpoint.CheckpointError(f"{error}; {_whole_ones(folder)}") from error
            # A run that trains there has removed it for a newer one.
    raise AssertionError("unreachable")


def _whole_ones(damaged: AnyPath) -> str:
    """Which checkpoints beside a damaged one can be read, in words."""
    folder = damaged.parent
    others = [step for step in checkpoint.steps_of(folder) if str(step) != damaged.name]
    whole = [step for step in others if checkpoint.damage(folder / str(step)) is None]
    if not whole:
        return "no other is whole" if others else "there is no other"
    return f"whole: {', '.join(map(str, whole))} (such as --checkpoint={whole[-1]})"


def check_image(image: Any) -> np.ndarray:
    """The image as an array, or ImageArrayError: it must be uint8 (H, W, 3), RGB."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ImageArrayError(
            f"an image must be uint8 (height, width, 3), RGB; got {image.dtype} {image.shape}"
        )
    return image
