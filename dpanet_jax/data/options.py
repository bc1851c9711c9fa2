"""What can be said of the data: the options of `config.data`."""

import dataclasses
from typing import Annotated

from dpanet_jax.options import Option, OptionError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training crops are made; see `augment`. Sizes are pixels, (height, width)."""

    crop_size: Annotated[
        tuple[int, ...], Option("height and width of a training crop", least=1, length=2)
    ] = (
        768,
        768,
    )
    base_size: Annotated[int, Option("long side of an image before the random scale", least=1)] = 2048
    scale_range: Annotated[
        tuple[float, ...], Option("lowest and highest random scale", above=0, length=2)
    ] = (
        0.5,
        2.0,
    )
    cat_max_ratio: Annotated[
        float,
        Option(
            "a crop of which one class has this part of the valid pixels, or all, is drawn anew, up to 10"
            " times; 1: off",
            above=0,
            most=1,
        ),
    ] = 1.0
    reduced_decoding: Annotated[
        bool,
        Option(
            "decode a JPEG to 1/2, 1/4 or 1/8 where that is at least twice as large as what it is scaled to:"
            " faster, and pixels differ a little"
        ),
    ] = False
    flip: Annotated[bool, Option("mirror half of the images left to right")] = True
    color_jitter: Annotated[float, Option("strength of the photometric distortion", least=0, most=1)] = 0.0
    blur: Annotated[
        float, Option("largest radius, in pixels, of the blur that half of the images get", least=0)
    ] = 0.0

    def __post_init__(self) -> None:
        if self.scale_range[0] > self.scale_range[1]:
            raise OptionError(f"scale_range={self.scale_range!r}: the lowest scale comes first")


@dataclasses.dataclass(frozen=True)
class Data(Augmentation):
    """Which data set a run reads, and how: `config.data`."""

    dataset: Annotated[
        str, Option("name of a prepared data set; folder/NAME for one of several of your own")
    ] = "streets"
    data_dir: Annotated[
        str,
        Option("where `prepare` wrote it; empty: $TFDS_DATA_DIR, or ~/tensorflow_datasets", kind="operation"),
    ] = ""
    train_split: Annotated[
        str, Option("split to train on; expressions such as train+val or train[:10%] work")
    ] = "train"
    val_split: Annotated[str, Option("split to evaluate on while training", kind="evaluation")] = "val"
    num_threads: Annotated[
        int,
        Option(
            "threads of each process that reads and augments; 0: chosen from the machine's cores and devices,"
            " or 1 where num_workers is given",
            least=0,
            kind="operation",
        ),
    ] = 0
    num_workers: Annotated[
        int,
        Option(
            "worker processes that read and augment; 0: threads of the training process; -1: chosen from the"
            " machine's cores and devices, or 0 where num_threads is given",
            least=-1,
            kind="operation",
        ),
    ] = -1
