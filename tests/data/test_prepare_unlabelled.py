"""`prepare` of a test split without labels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dpanet_jax.data
from dpanet_jax.data import pipeline
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.options import Augmentation
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare
from dpanet_jax.errors import DPANetError

ROOT = Path(dpanet_jax.data.__file__).parents[2]


def without_labels(source):
    shutil.rmtree(source / "labels/test")


def with_lists(source):
    for split in ("train", "val", "test"):
        names = sorted(path.name for path in (source / "images" / split).iterdir())
        (source / f"{split}.txt").write_text("".join(f"{split}/{name}\n" for name in names))
    without_labels(source)


@pytest.mark.parametrize("form", [without_labels, with_lists])
def test_a_test_split_may_have_no_labels(tmp_path, make_folder, form):
    source = make_folder(tmp_path / "source", counts=(("train", 3), ("val", 2), ("test", 2)))
    labelled = prepare("folder/labelled", tmp_path / "data", source, quiet=True)
    form(source)
    summary = prepare("folder", tmp_path / "data", source, quiet=True)
    assert summary.splits == {"train": 3, "val": 2, "test": 2} and summary.unlabelled == ("test",)
    assert "3 train, 2 val, 2 test (without labels), 3 classes" in str(summary)
    assert summary.fingerprint != labelled.fingerprint and "without labels" not in str(labelled)

    test = open_split("folder", "test", tmp_path / "data")
    assert not test.labelled and len(test) == 2 and test.sizes == ((24, 32), (24, 32))
    assert test[0].keys() == {"image", "name"}
    image = np.asarray(Image.open(source / "images/test/0001.png"))
    np.testing.assert_array_equal(test[1]["image"], image)

    train = open_split("folder", "train", tmp_path / "data")
    assert train.labelled and "label" in train[0]
    for split in (test, open_split("folder", "train+test", tmp_path / "data")):
        assert not split.labelled and "label" not in split[0]
        refusals = []
        with pytest.raises(pipeline.UnlabelledSplit, match="has no labels.* predict") as error:
            pipeline.eval_batches(split, 1)
        refusals.append(error.value)
        with pytest.raises(pipeline.UnlabelledSplit, match="has no labels.* predict") as error:
            pipeline.train_batches(split, Augmentation(), batch_size=1, seed=0)
        refusals.append(error.value)
        for refusal in refusals:
            assert isinstance(refusal, DPANetError) and "\n" not in str(refusal)


def test_camvid_without_labels_of_test(tmp_path, make_camvid):
    source = make_camvid(tmp_path / "source")
    shutil.rmtree(source / "testannot")
    assert prepare("camvid", tmp_path / "data", source, quiet=True).unlabelled == ("test",)


@pytest.mark.parametrize("split", ["train", "val"])
def test_train_and_val_need_labels(tmp_path, make_folder, split):
    source = make_folder(tmp_path / "source")
    shutil.rmtree(source / "labels" / split)
    with pytest.raises(DataError, match=f"labels/{split}: no such folder"):
        prepare("folder", tmp_path / "data", source, quiet=True)


@pytest.mark.parametrize("lists", [False, True])
def test_some_labels_are_too_few(tmp_path, make_folder, lists):
    source = make_folder(tmp_path / "source", counts=(("train", 2), ("val", 1), ("test", 2)))
    if lists:
        for split, count in (("train", 2), ("val", 1), ("test", 2)):
            (source / f"{split}.txt").write_text("".join(f"{split}/{i:04}\n" for i in range(count)))
    (source / "labels/test/0000.png").unlink()
    with pytest.raises(DataError, match="images/test/0000.png: image without a label"):
        prepare("folder", tmp_path / "data", source, quiet=True)


def test_an_unlabelled_split_needs_no_tensorflow(tmp_path, make_folder, run_script):
    source = make_folder(tmp_path / "source", counts=(("train", 1), ("val", 1), ("test", 2)))
    without_labels(source)
    script = """
        import sys
        from dpanet_jax.data.prepare import prepare
        prepare("folder", sys.argv[2], sys.argv[1], quiet=True)
        from dpanet_jax.data.split import open_split
        print([example["image"].shape for example in open_split("folder", "test", sys.argv[2])])
        assert "tensorflow" not in sys.modules
    """
    done = run_script(script, source, tmp_path / "data")
    assert (done.stdout, done.stderr) == ("[(24, 32, 3), (24, 32, 3)]\n", "")
