"""`streets`: street scenes that the project draws from a seed, with the 19 Cityscapes classes.

They are written in the layout of a user's own folder, and read as one.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from dpanet_jax.data.classes import IGNORE_LABEL, Classes
from dpanet_jax.data.datasets.cityscapes import CITYSCAPES
from dpanet_jax.data.datasets.folder import list_folder
from dpanet_jax.data.listing import DataSet
from dpanet_jax.options import Option

# The label files hold the train ids.
CLASSES = Classes.from_ids(CITYSCAPES.names, CITYSCAPES.colors.tolist())


@dataclasses.dataclass(frozen=True)
class Streets:
    """Which scenes are drawn. Sizes are pixels, (height, width)."""

    num_train: Annotated[int, Option("training scenes", least=1)] = 600
    num_val: Annotated[int, Option("validation scenes", least=1)] = 100
    size: Annotated[tuple[int, ...], Option("height and width of a scene", least=16, length=2)] = (96, 192)
    seed: Annotated[int, Option("the scenes' seed", least=0)] = 0


def draw(folder: Path, options: Streets, quiet: bool) -> None:
    """Draws the scenes into `folder`, or keeps those that are there. Shows a progress bar unless `quiet`."""
    # Most runs of `prepare` never draw, so the room of the scenes loads only here.
    from dpanet_jax.streets import write_streets

    height, width = options.size
    write_streets(
        folder,
        num_train=options.num_train,
        num_val=options.num_val,
        size=(height, width),
        seed=options.seed,
        classes=list(zip(CLASSES.names, CLASSES.colors.tolist(), strict=True)),
        ignore_label=IGNORE_LABEL,
        progress=not quiet,
    )


DATASET = DataSet(list_folder, classes=CLASSES, options=Streets, draw=draw)
