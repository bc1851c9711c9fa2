"""The stream: the same whatever reads it, resumable, and evaluation that counts everything once."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from dpanet_jax.data.location import DatasetNotFound, prepare_command
from dpanet_jax.data.options import Augmentation
from dpanet_jax.data.pipeline import eval_batches, open_split
from dpanet_jax.data.pipeline import train_batches as batches_of
from dpanet_jax.data.prepare import prepare
from dpanet_jax.errors import DPANetError

OPTIONS = dict(batch_size=4, crop_size=(16, 24), base_size=32, seed=3, num_threads=1)
# Some crops are drawn anew.
RARE = dict(cat_max_ratio=0.45)
AUGMENTATION = {field.name for field in dataclasses.fields(Augmentation)}


def train_batches(split, **options):
    """Options of the augmentation and of the batches in one row."""
    augmentation = {key: options.pop(key) for key in AUGMENTATION & options.keys()}
    return batches_of(split, Augmentation(**augmentation), **options)


@pytest.fixture
def train(folder_data_dir):
    return open_split("folder", "train", folder_data_dir)


def take(iterator, count):
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_split(train, folder_data_dir):
    assert len(train) == 11
    assert train.classes.names == ("road", "sky", "car")
    assert train.sizes[:2] == ((24, 32), (24, 32)) and train.sizes[10] == (16, 40)
    for i in (0, 10, -1):
        example = train[i]
        assert example["image"].shape == (*train.sizes[i], 3)
        assert example["image"].dtype == example["label"].dtype == np.uint8
        # The test images carry their labels in the blue channel.
        np.testing.assert_array_equal(example["image"][..., 2], example["label"])
    assert train[-1]["name"] == "wide"
    assert [example["name"] for example in train][:2] == ["0000", "0001"]
    with pytest.raises(IndexError, match="example 11 of split train, which has 11"):
        train[11]


def test_split_expressions(train, folder_data_dir):
    val = open_split("folder", "val", folder_data_dir)
    both = open_split("folder", "train+val", folder_data_dir)
    some = open_split("folder", "train[:3]", folder_data_dir)
    assert (len(both), len(some)) == (16, 3)
    assert both.sizes == train.sizes + val.sizes and some.sizes == train.sizes[:3]
    np.testing.assert_array_equal(both[11]["label"], val[0]["label"])
    assert len({train.fingerprint, val.fingerprint, both.fingerprint, some.fingerprint}) == 4
    assert train.fingerprint == open_split("folder", "train", folder_data_dir).fingerprint


@pytest.mark.parametrize("split", ["trian", "test", "train+", "train[5", "", "train+tset"])
def test_an_unknown_split_lists_the_choices(folder_data_dir, split):
    with pytest.raises(DPANetError, match="folder has no split .* it has train, val, and") as error:
        open_split("folder", split, folder_data_dir)
    assert "\n" not in str(error.value)


def test_an_empty_split_expression(folder_data_dir):
    with pytest.raises(ValueError, match="holds no example"):
        open_split("folder", "train[:0]", folder_data_dir)


def test_not_prepared_says_what_to_run(tmp_path, monkeypatch):
    with pytest.raises(DatasetNotFound, match="camvid is not prepared in") as error:
        open_split("camvid", "train", tmp_path)
    assert isinstance(error.value, FileNotFoundError)
    assert str(error.value).endswith(
        f"python -m dpanet_jax prepare --dataset=camvid --source=DIR --data_dir={tmp_path}"
    )
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(DatasetNotFound, match="elsewhere"):
        open_split("folder/mine", "train")
    assert prepare_command("streets") == "python -m dpanet_jax prepare --dataset=streets"
    with pytest.raises(DPANetError, match="unknown data set 'kitti'"):
        open_split("kitti", "train", tmp_path)


def test_train_batches(train):
    for batch in take(train_batches(train, **OPTIONS), 3):
        assert batch["image"].shape == (4, 16, 24, 3) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == (4, 16, 24) and batch["label"].dtype == np.uint8
        assert batch["extent"].shape == (4, 2) and batch["extent"].dtype == np.int32
        for label, (height, width) in zip(batch["label"], batch["extent"], strict=True):
            assert (label[:height, :width] != 255).all()
            assert (label[height:] == 255).all() and (label[:, width:] == 255).all()


class Numbered:
    """A split whose image is its own number, to follow the order."""

    fingerprint = "numbered"
    labelled = True

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {
            "image": np.full((2, 2, 3), index, np.uint8),
            "label": np.full((2, 2), index, np.uint8),
            "name": str(index),
        }


PLAIN = dict(crop_size=(2, 2), base_size=2, scale_range=(1, 1), num_threads=0)


def numbers(batches):
    return [batch["label"][:, 0, 0].tolist() for batch in batches]


@pytest.mark.parametrize("length", [1, 2, 11])
def test_every_epoch_has_each_example_once_in_its_own_order(length):
    stream = train_batches(Numbered(length), batch_size=1, seed=0, **PLAIN)
    order = [row for (row,) in numbers(take(stream, 3 * length))]
    epochs = [order[i * length : (i + 1) * length] for i in range(3)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    if length == 11:
        assert epochs[0] != epochs[1] != epochs[2]
        other = train_batches(Numbered(length), batch_size=1, seed=1, **PLAIN)
        assert [row for (row,) in numbers(take(other, length))] != epochs[0]


def test_a_batch_may_be_larger_than_the_split():
    (batch,) = numbers(take(train_batches(Numbered(3), batch_size=6, seed=0, **PLAIN), 1))
    assert sorted(batch) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("num_blocks", [2, 4])
def test_blocks_are_the_rows_of_the_global_batch_in_order(train, num_blocks):
    options = OPTIONS | RARE
    whole = take(train_batches(train, **options), 4)
    blocks = [
        take(train_batches(train, **options, block=block, num_blocks=num_blocks), 4)
        for block in range(num_blocks)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*blocks, strict=True)
    ]
    assert_same(joined, whole)


def test_threads_and_workers_do_not_change_the_stream(train):
    options = OPTIONS | RARE | dict(color_jitter=0.4, blur=1.0)
    expected = take(train_batches(train, **options | dict(num_threads=0)), 7)
    assert_same(take(train_batches(train, **options | dict(num_threads=3)), 7), expected)
    once = take(train_batches(train, **options | dict(cat_max_ratio=1.0)), 7)
    assert any((ours["label"] != theirs["label"]).any() for ours, theirs in zip(once, expected, strict=True))


def test_jpegs_may_be_decoded_smaller(folder_data_dir, tmp_path):
    prepare("folder", tmp_path / "data", folder_data_dir.parent / "source", quiet=True, store="jpeg")
    train = open_split("folder", "train", tmp_path / "data")
    options = OPTIONS | dict(base_size=8, crop_size=(4, 4))
    whole = take(train_batches(train, **options), 3)
    reduced = take(train_batches(train, **options, reduced_decoding=True), 3)
    for ours, theirs in zip(reduced, whole, strict=True):
        np.testing.assert_array_equal(ours["label"], theirs["label"])
    assert any((ours["image"] != theirs["image"]).any() for ours, theirs in zip(reduced, whole, strict=True))
    assert_same(take(train_batches(train, **options, reduced_decoding=True, num_workers=1), 3), reduced)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_a_resume_with_another_number_of_workers(train, before, after):
    options = OPTIONS | RARE | dict(color_jitter=0.4, blur=1.0)
    expected = take(train_batches(train, **options), 7)
    first = train_batches(train, **options, num_workers=before)
    assert_same(list(itertools.islice(first, 2)), expected[:2])
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    assert state["next_batch"] == 2
    second = train_batches(train, **options | dict(num_threads=2), num_workers=after)
    second.set_state(state)
    assert_same(list(itertools.islice(second, 3)), expected[2:5])
    state = second.get_state()
    second.close()
    assert state["next_batch"] == 5
    third = train_batches(train, **options, num_workers=before)
    third.set_state(state)
    assert_same(take(third, 2), expected[5:])


def test_a_worker_pipeline_runs_in_a_plain_script(folder_data_dir, tmp_path, pytestconfig):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from dpanet_jax.data.options import Augmentation\n"
        "from dpanet_jax.data.pipeline import open_split, train_batches\n"
        "if __name__ == '__main__':\n"
        "    split = open_split('folder', 'train', sys.argv[1])\n"
        "    augmentation = Augmentation(crop_size=(8, 8), base_size=32)\n"
        "    stream = train_batches(split, augmentation, batch_size=2, seed=0, num_workers=2)\n"
        "    print([next(stream)['image'].shape for _ in range(3)])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(folder_data_dir)],
        env=os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[(2, 8, 8, 3), (2, 8, 8, 3), (2, 8, 8, 3)]\n"
    assert done.stderr == ""


def test_state_can_be_set_back_in_the_same_iterator(train):
    stream = train_batches(train, **OPTIONS)
    start = stream.get_state()
    first = list(itertools.islice(stream, 3))
    stream.set_state(start)
    assert_same(take(stream, 3), first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(seed=4), "of another seed: 4, where this run has 3"),
        (dict(batch_size=2), "of another batch size: 2, where this run has 4"),
    ],
)
def test_a_state_of_another_stream_is_refused(train, change, message):
    stream = train_batches(train, **OPTIONS)
    with pytest.raises(DPANetError, match=message):
        stream.set_state(train_batches(train, **OPTIONS | change).get_state())


def test_a_state_of_another_split_is_refused(train, folder_data_dir):
    other = open_split("folder", "train+val", folder_data_dir)
    stream = train_batches(train, **OPTIONS)
    with pytest.raises(ValueError, match=r"of another data set or split \(fingerprint\)"):
        stream.set_state(train_batches(other, **OPTIONS).get_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_blocks=3), "batch_size 4 must be a multiple of the 3 blocks"),
        (dict(block=2, num_blocks=2), "block 2 must lie below 2"),
        (dict(batch_size=0), "batch_size 0"),
        (dict(seed=-1), "seed must lie"),
    ],
)
def test_wrong_arguments(train, change, message):
    with pytest.raises(DPANetError, match=message):
        train_batches(train, **OPTIONS | change)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("num_threads", [0, 2])
def test_eval_covers_every_example_once(train, batch_size, num_threads):
    batches = eval_batches(train, batch_size, num_threads=num_threads)
    read = list(batches)
    assert len(batches) == len(read) == -(-10 // batch_size) + 1
    seen = []
    for batch in read:
        b, height, width = batch["label"].shape
        assert b == batch_size and batch["image"].shape == (b, height, width, 3)
        assert batch["mask"].dtype == bool and batch["index"].dtype == np.int32
        for row, (i, valid) in enumerate(zip(batch["index"], batch["mask"], strict=True)):
            if not valid:
                assert i == -1 and (batch["label"][row] == 255).all() and batch["name"][row] == ""
                continue
            seen.append(int(i))
            assert train.sizes[i] == (height, width)
            np.testing.assert_array_equal(batch["image"][row], train[i]["image"])
            np.testing.assert_array_equal(batch["label"][row], train[i]["label"])
            assert batch["name"][row] == train[i]["name"]
    assert sorted(seen) == list(range(11))
    assert_same(list(batches), read)


def test_eval_processes_take_equal_steps_and_share_the_examples(train):
    whole = list(eval_batches(train, 4))
    for block in range(2):
        shares = list(eval_batches(train, 4, block, 2))
        expected = [{k: v[2 * block : 2 * block + 2] for k, v in batch.items()} for batch in whole]
        assert_same(shares, expected)
    with pytest.raises(ValueError, match="batch_size 4 must be a multiple of the 3 blocks"):
        eval_batches(train, 4, 0, 3)


def test_the_real_camvid(tmp_path, pytestconfig):
    source = pytestconfig.rootpath.parent / "shared" / "data" / "camvid"
    if not source.is_dir():
        pytest.skip("CamVid is not at ../shared/data/camvid")
    small = tmp_path / "small"
    for split in ("train", "val", "test"):
        for folder in (split, f"{split}annot"):
            (small / folder).mkdir(parents=True)
            for path in sorted((source / folder).iterdir())[:3]:
                (small / folder / path.name).symlink_to(path)
    prepare("camvid", tmp_path / "data", small, quiet=True)
    split = open_split("camvid", "train+val", tmp_path / "data")
    assert len(split) == 6 and split.sizes == ((360, 480),) * 6
    assert set(np.unique(split[0]["label"])) <= {*range(11), 255}
    stream = train_batches(split, batch_size=2, crop_size=(96, 128), base_size=240, seed=0)
    (batch,) = take(stream, 1)
    assert batch["image"].shape == (2, 96, 128, 3)
