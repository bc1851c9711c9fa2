"""CamVid in the form that SegNet's authors publish: 480x360 frames, 11 classes.

    DIR/train  DIR/val  DIR/test                     NAME.png or NAME.jpg
    DIR/trainannot  DIR/valannot  DIR/testannot      NAME.png, 8-bit grey, 0..10 and 11 for void

`test` may be absent.
"""

from pathlib import Path

from dpanet_jax.data.builders.listing import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    REQUIRED_SPLITS,
    SPLITS,
    Listing,
    files_by_name,
    match,
)
from dpanet_jax.data.classes import CAMVID


def list_camvid(source: Path) -> Listing:
    """Matches images and labels of every split below `source`; problems are in the listing."""
    listing = Listing(CAMVID)
    for split in SPLITS:
        folders = source / split, source / f"{split}annot"
        absent = [folder for folder in folders if not folder.is_dir()]
        if len(absent) == 2 and split not in REQUIRED_SPLITS:
            continue
        if absent:
            listing.problems += [f"{folder}: no such folder" for folder in absent]
            continue
        images = files_by_name(folders[0], IMAGE_SUFFIXES, listing.problems)
        labels = files_by_name(folders[1], LABEL_SUFFIXES, listing.problems)
        if not images and not labels:
            listing.problems.append(f"{folders[0]}: no image in it, so the split is empty")
        listing.splits[split] = match(images, labels, listing.problems)
    return listing
