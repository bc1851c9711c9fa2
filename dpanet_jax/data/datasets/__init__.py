"""The data sets by name. Each is one file here and one line in `DATASETS`.

Another package adds its own with `register`, before the name is used:

    datasets.register("rooms", datasets.DataSet(list_rooms, classes=ROOMS))
"""

import re

from dpanet_jax.data.datasets import ade20k, camvid, cityscapes, coco_stuff, folder, streets, voc
from dpanet_jax.data.listing import DataSet

__all__ = ["DATASETS", "DataSet", "register"]

DATASETS: dict[str, DataSet] = {
    "streets": streets.DATASET,
    "camvid": camvid.DATASET,
    "cityscapes": cityscapes.DATASET,
    "voc": voc.DATASET,
    "ade20k": ade20k.DATASET,
    "coco_stuff": coco_stuff.DATASET,
    "folder": folder.DATASET,
}


def register(name: str, dataset: DataSet) -> None:
    """Adds a data set. Raises ValueError for a name that is taken, or that is no folder name."""
    if name in DATASETS:
        raise ValueError(f"the data set {name!r} is registered already")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"a data set's name has small letters, digits and '_', not {name!r}")
    DATASETS[name] = dataset
