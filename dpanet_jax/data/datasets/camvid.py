"""CamVid in the form that SegNet's authors publish: 480x360 frames, 11 classes.

    DIR/train  DIR/val  DIR/test                     NAME.png or NAME.jpg
    DIR/trainannot  DIR/valannot  DIR/testannot      NAME.png, 8-bit grey, 0..10 and 11 for void

`test` may be absent, and so may its labels.
"""

from pathlib import Path

from dpanet_jax.data.classes import Classes
from dpanet_jax.data.listing import SPLITS, DataSet, Listing, list_folders
from dpanet_jax.data.pairing import Suffixes

# The 11 classes and colours of SegNet's CamVid; 11 is void.
_TABLE = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign symbol", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)
CAMVID = Classes.from_ids(
    names=[name for name, _ in _TABLE], colors=[color for _, color in _TABLE], ignored_ids=[11]
)


def list_camvid(source: Path, options: Suffixes | None = None) -> Listing:
    """Matches images and labels of every split below `source`; problems are in the listing."""
    listing = Listing(CAMVID)
    folders = {split: (source / split, source / f"{split}annot") for split in SPLITS}
    list_folders(listing, folders, suffixes=options)
    return listing


DATASET = DataSet(list_camvid, classes=CAMVID, options=Suffixes)
