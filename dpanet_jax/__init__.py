"""DPANet, Dual Pooling Attention Network for semantic segmentation (arXiv 2210.05437), in JAX.

import dpanet_jax
model = dpanet_jax.load("runs/camvid")
class_ids = model.predict(image)
"""

from typing import TYPE_CHECKING

from dpanet_jax.version import __version__

if TYPE_CHECKING:
    from dpanet_jax.evaluation.trained import TrainedModel
    from dpanet_jax.paths import PathLike

__all__ = ["__version__", "load"]


def load(
    workdir_or_checkpoint: "PathLike",
    which: str | int = "best",
    base_size: int | None = None,
    protocol: str | None = None,
    window: tuple[int, int] | None = None,
    window_batch: int | None = None,
) -> "TrainedModel":
    """A trained model: `.predict(images)`, `.probabilities(images)`, `.classes`, `.config`, `.step`.

    `workdir_or_checkpoint` is a `--workdir` of `train`, here or in a bucket, or one folder under its
    `checkpoints`; `which`
    is "best", "latest" or a step's number; `base_size` is the long side in pixels that an image is
    resized to before the network (0: its own) and `protocol` how it is put through it; `window` (height,
    width) and `window_batch` are of the protocols with windows. None is the run's own, config.evaluation.

    `predict` takes uint8 (H, W, 3) RGB and returns uint8 (H, W) class ids; `probabilities` returns float32
    (H, W, K), which sums to 1 over the K classes. Outside of the crop of `center_crop` the id is 255 and the
    probabilities are 0. Either takes a list too, of any sizes, and returns one.
    Raises CheckpointError where there is nothing to load.
    """
    # Here and not above: `import dpanet_jax` alone should not take the seconds that JAX takes.
    from dpanet_jax.evaluation.trained import load_trained

    return load_trained(workdir_or_checkpoint, which, base_size, protocol, window, window_batch)
