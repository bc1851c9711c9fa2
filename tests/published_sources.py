"""Small sources of published data sets: exactly their layout, names, palettes and ids, and tiny images."""

import zipfile

import numpy as np
from PIL import Image

CITIES = {"train": "aachen", "val": "frankfurt", "test": "berlin", "train_extra": "bayreuth"}
# From the authors' labels.py: id → trainId.
TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
    27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
# The four archives, and the folders in each.
CITYSCAPES_ARCHIVES = {
    "leftImg8bit_trainvaltest": ("leftImg8bit/train", "leftImg8bit/val", "leftImg8bit/test"),
    "gtFine_trainvaltest": ("gtFine",),
    "leftImg8bit_trainextra": ("leftImg8bit/train_extra",),
    "gtCoarse": ("gtCoarse",),
}


def write_cityscapes(root, counts=(3, 2, 2), coarse=0, train_ids=False):
    """Unpacked, so many images of train, val and test; returns {name: raw ids (32, 64)}."""
    rng = np.random.default_rng(0)
    ids = {}
    for split, count in zip(CITIES, (*counts, coarse), strict=True):
        kind = "gtCoarse" if split == "train_extra" else "gtFine"
        for i in range(count):
            name = f"{CITIES[split]}_{i:06}_000019"
            folders = [root / folder / split / CITIES[split] for folder in ("leftImg8bit", kind)]
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            raw = rng.integers(0, 34, (32, 64)).astype(np.uint8)
            if split == "test":
                raw[:] = 0
            ids[f"{CITIES[split]}/{name}"] = raw
            pixels = rng.integers(0, 256, (32, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folders[0] / f"{name}_leftImg8bit.png")
            stored = np.vectorize(lambda i: TRAIN_IDS.get(i, 255))(raw).astype(np.uint8) if train_ids else raw
            form = "labelTrainIds" if train_ids else "labelIds"
            Image.fromarray(stored).save(folders[1] / f"{name}_{kind}_{form}.png")
            Image.fromarray(raw.astype(np.uint16)).save(folders[1] / f"{name}_{kind}_instanceIds.png")
            Image.fromarray(pixels).save(folders[1] / f"{name}_{kind}_color.png")
            (folders[1] / f"{name}_{kind}_polygons.json").write_text("{}")
    return ids


def pack_cityscapes(root, target):
    """The archives as they are published, of what `write_cityscapes` wrote to `root`."""
    target.mkdir()
    for archive, folders in CITYSCAPES_ARCHIVES.items():
        paths = [path for folder in folders for path in sorted((root / folder).rglob("*"))]
        if paths:
            with zipfile.ZipFile(target / f"{archive}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
                packed.writestr("README", "Cityscapes")
                packed.writestr("license.txt", "of Cityscapes")
                for path in paths:
                    packed.write(path, path.relative_to(root))
    return target
