"""Small sources of published data sets: exactly their layout, names, palettes and ids, and tiny images.

`CHANGED` is what tests change of the configs: the true networks take minutes to compile.
"""

import itertools
import tarfile
import zipfile

import numpy as np
from PIL import Image

CHANGED = {
    "model.backbone": "resnet18",
    "model.width": 8,
    "model.reduce_channels": 8,
    "data.crop_size": [32, 32],
    "data.base_size": 64,
    "training.epochs": 0,
    "training.steps": 2,
    "log_every_steps": 1,
    "pictures": 0,
}

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


def voc_palette():
    """(256, 3) uint8, by the development kit's rule: the bits of an id go to red, green, blue in turn."""
    palette = np.zeros((256, 3), np.uint8)
    for i, bit, channel in itertools.product(range(256), range(8), range(3)):
        if i >> (3 * bit + channel) & 1:
            palette[i, channel] |= 128 >> bit
    return palette


def write_voc(root, counts=(3, 2), more=0, test=0):
    """VOCdevkit/ with so many images of train and val; returns {name: ids (H, W)}.

    more: images that only the augmented masks label; with any, SegmentationClassAug/ and train_aug.txt are
    written, in grey as they are published. test: images without labels. No image is used twice.
    """
    rng = np.random.default_rng(1)
    voc = root / "VOCdevkit/VOC2012"
    kinds = ("Annotations", "JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation")
    for folder in (*kinds, "SegmentationClassAug") if more else kinds:
        (voc / folder).mkdir(parents=True)
    names, ids = {"train": [], "val": [], "more": [], "test": []}, {}
    for split, count in zip(names, (*counts, more, test), strict=True):
        for _ in range(count):
            name = f"20{7 + len(ids) % 5:02}_{len(ids):06}"
            names[split].append(name)
            shape = [(32, 48), (48, 32), (36, 48)][len(ids) % 3]
            values = rng.integers(0, 22, shape).astype(np.uint8)
            ids[name] = np.where(values == 21, 255, values).astype(np.uint8)
            Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(voc / f"JPEGImages/{name}.jpg")
            (voc / f"Annotations/{name}.xml").write_text("<annotation/>")
            if split in ("train", "val"):
                for folder in ("SegmentationClass", "SegmentationObject"):
                    label = Image.fromarray(ids[name])
                    label.putpalette(voc_palette().tobytes())
                    label.save(voc / f"{folder}/{name}.png")
            if more and split != "test":
                Image.fromarray(ids[name]).save(voc / f"SegmentationClassAug/{name}.png")
    lists = {"train": names["train"], "val": names["val"], "trainval": sorted(names["train"] + names["val"])}
    for split, listed in (lists | ({"test": names["test"]} if test else {})).items():
        (voc / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{name}\n" for name in listed))
    if more:
        lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in names["train"] + names["more"]]
        (root / "train_aug.txt").write_text("\n".join(lines))
    return ids


def pack_voc(root, target):
    """The archives as they are published, of what `write_voc` wrote to `root`, and the list beside them."""
    target.mkdir()
    voc = root / "VOCdevkit/VOC2012"
    test_list = voc / "ImageSets/Segmentation/test.txt"
    test = test_list.read_text().split() if test_list.exists() else []
    of_test = [
        test_list,
        *(voc / f"JPEGImages/{n}.jpg" for n in test),
        *(voc / f"Annotations/{n}.xml" for n in test),
    ]
    masks = voc / "SegmentationClassAug"
    others = [p for p in sorted(root.glob("VOCdevkit/**/*")) if p not in (*of_test, masks, *masks.glob("*"))]
    for archive, paths in (("VOCtrainval_11-May-2012", others), ("VOC2012test", of_test if test else [])):
        if paths:
            with tarfile.open(target / f"{archive}.tar", "w") as packed:
                for path in paths:
                    packed.add(path, path.relative_to(root).as_posix(), recursive=False)
    if masks.is_dir():
        with zipfile.ZipFile(target / "SegmentationClassAug.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
            for path in sorted(masks.iterdir()):
                zipped.write(path, path.relative_to(voc))
                zipped.writestr(f"__MACOSX/SegmentationClassAug/._{path.name}", "of a Mac")
        (target / "train_aug.txt").write_bytes((root / "train_aug.txt").read_bytes())
    return target


# ADE20K's archives, and the folder in each.
ADE20K_ARCHIVES = {"ADEChallengeData2016": "ADEChallengeData2016", "release_test": "release_test"}
ADE20K_FOLDERS = {"train": "training", "val": "validation"}


def write_ade20k(root, counts=(3, 2, 2)):
    """Unpacked, so many images of train, val and test; returns {name: raw ids (32, 48)}, 0 to 150."""
    rng = np.random.default_rng(0)
    ids = {}
    data = root / "ADEChallengeData2016"
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        for i in range(1, count + 1):
            name = f"ADE_{split}_{i:08}"
            folder = (
                data / "images" / ADE20K_FOLDERS[split] if split != "test" else root / "release_test/testing"
            )
            _picture(folder / f"{name}.jpg", rng)
            if split != "test":
                ids[name] = rng.integers(0, 151, (32, 48)).astype(np.uint8)
                path = data / "annotations" / ADE20K_FOLDERS[split] / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(ids[name]).save(path)
    (data / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n")
    return ids


def pack_ade20k(root, target):
    """The archives as they are published, of what `write_ade20k` wrote to `root`."""
    target.mkdir()
    for archive, folder in ADE20K_ARCHIVES.items():
        pack(target / f"{archive}.zip", root, (root / folder).rglob("*"))
    return target


def write_coco_stuff(root, counts=(3, 2), palette=False):
    """Unpacked to `images/` and `annotations/`; returns {name: raw ids (32, 48)}, 0 to 181 and 255."""
    rng = np.random.default_rng(0)
    never = np.array([12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]) - 1
    there = np.setdiff1d(np.append(np.arange(182), 255), never).astype(np.uint8)
    ids = {}
    for first, (split, count) in enumerate(zip(("train2017", "val2017"), counts, strict=True)):
        for i in range(count):
            name = f"{1000 * first + 9 * i + 9:012}"
            _picture(root / "images" / split / f"{name}.jpg", rng)
            ids[name] = rng.choice(there, (32, 48))
            if palette and not i:
                ids[name][:] = 128  # Its grey is the colour of another class.
            label = Image.fromarray(ids[name])
            if palette:
                # The greys of an indexed image.
                label = Image.frombytes("P", label.size, ids[name].tobytes())
                label.putpalette(np.arange(256, dtype=np.uint8).repeat(3).tobytes())
            path = root / "annotations" / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            label.save(path)
    return ids


def pack_coco_stuff(root, target):
    """The archives as they are published, of what `write_coco_stuff` wrote to `root`."""
    target.mkdir()
    for split in ("train2017", "val2017"):
        pack(target / f"{split}.zip", root / "images", (root / "images" / split).rglob("*"))
    maps = root / "annotations"
    pack(target / "stuffthingmaps_trainval2017.zip", maps, maps.rglob("*"))
    return target


def pack(archive, root, paths):
    """A ZIP archive of `paths`, with their names below `root`."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(paths):
            packed.write(path, path.relative_to(root))


def _picture(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (32, 48, 3)).astype(np.uint8)).save(path)
