"""Tiny data sets in the forms that the builders read."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dpanet_jax.data
from dpanet_jax.data.prepare import prepare

ROOT = Path(dpanet_jax.data.__file__).parents[2]


def save_pair(image: Path, label: Path, seed: int, size=(24, 32), ids=(0, 1, 2), palette=False):
    """Writes an image of `size` (height, width) whose colours encode its label, and the label."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice(ids, size=(size[0] // 4, size[1] // 4)).astype(np.uint8)
    labels = blocks.repeat(4, axis=0).repeat(4, axis=1)
    image.parent.mkdir(parents=True, exist_ok=True)
    label.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([labels * 20, labels * 10 + seed % 5, labels], -1)).save(image)
    stored = Image.fromarray(labels)
    if palette:
        stored = Image.frombytes("P", stored.size, labels.tobytes())
        stored.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
    stored.save(label)
    return labels


@pytest.fixture
def save():
    return save_pair


def camvid_source(root: Path, counts=(("train", 5), ("val", 3), ("test", 2)), suffix=".png"):
    for number, (split, count) in enumerate(counts):
        for i in range(count):
            save_pair(
                root / split / f"{i:04}{suffix}",
                root / f"{split}annot" / f"{i:04}.png",
                seed=100 * number + i,
                ids=(0, 3, 10, 11),
            )
    return root


@pytest.fixture
def make_camvid():
    return camvid_source


CLASSES_CSV = "name,red,green,blue\nroad,128,64,128\nsky,70,130,180\ncar,0,0,142\n"


def folder_source(root: Path, counts=(("train", 5), ("val", 3)), **pair_options):
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.csv").write_text(CLASSES_CSV)
    for number, (split, count) in enumerate(counts):
        for i in range(count):
            save_pair(
                root / "images" / split / f"{i:04}.png",
                root / "labels" / split / f"{i:04}.png",
                seed=100 * number + i,
                **pair_options,
            )
    return root


@pytest.fixture
def make_folder():
    return folder_source


@pytest.fixture(scope="session")
def folder_data_dir(tmp_path_factory):
    """A data_dir with `folder` prepared: 11 train and 5 val, the last of each of another size."""
    root = tmp_path_factory.mktemp("folder")
    source = folder_source(root / "source", counts=(("train", 10), ("val", 4)))
    for split in ("train", "val"):
        image = source / "images" / split / "wide.png"
        save_pair(image, source / "labels" / split / "wide.png", seed=9, size=(16, 40))
    prepare("folder", root / "data", source, quiet=True)
    return root / "data"


@pytest.fixture(scope="session")
def run_script():
    """A function that runs Python code in a process of its own, with warnings as errors."""

    def run(code, *arguments, **environment):
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
