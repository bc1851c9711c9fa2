"""CONTRIBUTING.md: its examples are code that works, and what it names is there."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from dpanet_jax import models, options
from dpanet_jax.data.classes import Classes
from dpanet_jax.data.listing import SPLITS, DataSet, Listing, list_folders
from dpanet_jax.models import registry
from dpanet_jax.models.layers import Numerics
from dpanet_jax.models.loss_term import LossTerm
from dpanet_jax.options import Option, OptionError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(heading: str, **names: Any) -> dict[str, Any]:
    """What the first Python example below a heading defines, given what it takes as imported."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    exec(compile(found[1], f"CONTRIBUTING.md, {heading}", "exec"), names)
    return names


def test_the_head_is_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"nn": nn, "jax": jax, "Annotated": Annotated, "ClassVar": ClassVar, "Literal": Literal}
    ours = {"LossTerm": LossTerm, "Numerics": Numerics, "Option": Option}
    head = example("Add a head", **names, **ours)["StrideHead"]
    monkeypatch.setitem(registry.HEADS, "stride", head)
    values = {"backbone": "resnet18", "width": 8, "output_stride": 32, "auxiliary": False}

    def shape(stage: str) -> tuple[int, ...]:
        model = models.build(5, name="stride", head_stage=stage, **values)
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
        rng = jax.random.key(0)
        outputs, _ = jax.eval_shape(lambda x: model.init_with_output(rng, x, train=False), images)
        assert model.loss_terms() == {"fused": ("logits", 1.0)}
        return outputs["logits"].shape

    assert shape("c4") == (1, 2, 2, 5)
    assert shape("c3") == (1, 4, 4, 5)
    with pytest.raises(OptionError, match="head_stage='c1': choose one of c3, c4"):
        options.read(head, {"head_stage": "c1"})


def test_the_data_set_lists_its_files(tmp_path: Path) -> None:
    rooms = Classes.from_ids(["floor", "wall"], [(0, 0, 0), (9, 9, 9)])
    ours = {"Listing": Listing, "DataSet": DataSet, "SPLITS": SPLITS, "list_folders": list_folders}
    dataset = example("Add a data set", Path=Path, ROOMS=rooms, **ours)["DATASET"]
    for folder in ("train", "train_labels", "val", "val_labels"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / folder / "kitchen.png")
    listing = dataset.list_source(tmp_path)
    assert listing.problems == []
    assert {split: [pair.name for pair in pairs] for split, pairs in listing.splits.items()} == {
        "train": ["kitchen"],
        "val": ["kitchen"],
    }
    (tmp_path / "val_labels" / "kitchen.png").unlink()
    assert any(
        "kitchen.png: image without a label" in line for line in dataset.list_source(tmp_path).problems
    )


def test_the_files_that_it_names_are_there() -> None:
    named = set(re.findall(r"(?<![\w/])(?:dpanet_jax|docs|tests|configs|scripts|\.ci)/[\w./]*\w", PAGE))
    named -= {"docs/_build/html"}
    assert len(named) >= 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_registries_that_it_names_are_there() -> None:
    for name in re.findall(r"`([A-Z]{4,})`", PAGE):
        assert name in ("HEADS", "BACKBONES", "NETWORKS", "DATASETS"), name
    for name in ("HEADS", "BACKBONES", "NETWORKS", "register_head"):
        assert f"`{name}`" in PAGE and hasattr(registry, name)
