"""README's five lines run as they stand, on archives of the published layout in DIR and an image in PHOTOS.

What is added is at the end of a line: `--partial`, for the archives hold a few images; and of a run what
`test_published_configs` changes in it too, so that the programs are compiled once. The first line, the
installation, is not run: `test_packaging` builds what it installs.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_sources import CHANGED, pack_cityscapes, pack_voc, write_cityscapes, write_voc

from dpanet_jax.__main__ import main

ADDED = {
    "prepare": ["--partial"],
    "train": [f"--config.{key}={value}" for key, value in CHANGED.items()],
    "evaluate": [],
    "predict": [],
}
ARCHIVES = {
    "cityscapes": (lambda root: write_cityscapes(root, counts=(8, 2, 1)), pack_cityscapes),
    "voc": (lambda root: write_voc(root, counts=(8, 2), more=8, test=1), pack_voc),
}


def lines_of(readme: str, dataset: str) -> list[str]:
    section = readme.split("## Cityscapes or PASCAL VOC, in five lines\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    install, *runs = block.strip().split("\n\n")
    return [install, *next(run for run in runs if f"--dataset={dataset} " in run).splitlines()]


@pytest.mark.parametrize("dataset", ARCHIVES)
def test_the_five_lines(
    root: Path,
    pages: dict[str, str],
    dataset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install, *lines = lines_of(pages["README.md"], dataset)
    assert install == "pip install -e ."
    assert [line.split()[3] for line in lines] == list(ADDED)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "configs").symlink_to(root / "configs")
    write, pack = ARCHIVES[dataset]
    write(tmp_path / "unpacked")
    pack(tmp_path / "unpacked", tmp_path / "DIR")
    (tmp_path / "PHOTOS").mkdir()
    photo = np.random.default_rng(2).integers(0, 256, (32, 64, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "PHOTOS/photo.jpg")
    for line in lines:
        python, _, package, verb, *words = shlex.split(line)
        assert (python, package) == ("python", "dpanet_jax")
        assert main([verb, *words, *ADDED[verb]]) == 0

    said = capsys.readouterr().out
    ids = np.asarray(Image.open(tmp_path / "PREDICTIONS/ids/photo.png"))
    assert ids.shape == (32, 64)
    known = {"cityscapes": {*range(7, 34)}, "voc": {*range(21)}}[dataset]
    assert set(np.unique(ids)) <= known
    for name in {"cityscapes": ("road", "bicycle"), "voc": ("background", "tvmonitor")}[dataset]:
        assert f" {name} " in said
