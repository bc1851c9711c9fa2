"""Starts, checkpoints and input of scripts/benchmark: each side does the work that the row names."""

import dataclasses
import functools
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmarks import files, starting  # noqa: E402
from benchmarks.networks import Theirs, Work  # noqa: E402

from dpanet_jax.data.classes import IGNORE_LABEL  # noqa: E402
from dpanet_jax.data.options import Augmentation  # noqa: E402

TINY = Work("fcn", "resnet18", "float32", 8, 32)  # The tests have eight devices; ONE is for a process alone.
ONE = dataclasses.replace(TINY, batch_size=2)


def test_a_run_starts_and_goes_on_from_where_it_was_stopped(tmp_path: Path) -> None:
    files.draw(tmp_path, files.SIZE, 1)
    workdir, log = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    variables = {**starting._caches_in(str(tmp_path / "compiled")), "XLA_FLAGS": ""}
    seconds = starting._first_step(ONE, tmp_path, workdir, variables)
    first = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    seconds_again = starting._first_step(ONE, tmp_path, workdir, variables)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert min(seconds, seconds_again) > 0
    assert first == list(range(1, len(first) + 1)) and steps == list(range(1, len(steps) + 1))
    assert len(steps) > len(first) and any((tmp_path / "compiled").rglob("*-cache"))


def test_a_run_that_cannot_start_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="train cannot run: .*is not prepared"):
        starting._first_step(TINY, tmp_path, tmp_path / "run", starting._caches_in(str(tmp_path)))


def test_marks_follow_one_another_on_either_side(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found = starting._start(TINY, starting._caches_in(str(tmp_path)), "cpu", "eager")
    assert list(found) == ["import", "built", "stepped"]
    assert 0 < found["import"] < found["built"] < found["stepped"]


def test_both_sides_save_and_restore_a_whole_state(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save, restore = starting.checkpoints(TINY, 1, "cpu")
    assert (save.part, restore.part) == ("checkpoint save", "checkpoint restore")
    assert list(save.times) == list(restore.times) == ["ours", "PyTorch"]
    file = tmp_path / "twin.pth"
    starting._of_twin(TINY, "cpu", file)["save"]()
    found = torch.load(file)
    shapes = [parameter.shape for parameter in Theirs(TINY, "cpu").network.parameters()]
    momenta = [state["momentum_buffer"].shape for state in found["optimizer"]["state"].values()]
    assert sorted(momenta) == sorted(shapes)
    # As many numbers as ours, but for the counters: "num_batches_tracked", and the step.
    numbers = sum(array.numel() for array in found["network"].values() if array.ndim)
    numbers += sum(shape.numel() for shape in momenta)
    assert abs(4 * numbers - 1e6 * save.amount) < 100


@pytest.mark.parametrize("size", [(40, 60), (16, 20)])
def test_crops_of_image_and_label_are_the_same_window(size: tuple[int, int], tmp_path: Path) -> None:
    """The label is drawn into the image: whatever is done to one must have been done to the other."""
    label = np.zeros(size, np.uint8)
    label[: size[0] // 2, : size[1] // 3] = 200
    Image.fromarray(label).save(tmp_path / "label.png")
    Image.fromarray(np.repeat(label[..., None], 3, axis=2)).save(tmp_path / "image.png")
    augmentation = Augmentation(crop_size=(30, 40), base_size=size[1], scale_range=(0.5, 2.0))
    crops = files.Crops([tmp_path / "image.png"], [tmp_path / "label.png"], augmentation)
    random.seed(0)
    found = [crops[0] for _ in range(20)]
    padded = 0
    for image, ids in found:
        assert image.shape == (30, 40, 3) and ids.shape == (30, 40)
        shown = ids != IGNORE_LABEL
        padded += not shown.all()
        assert not image[~shown].any()
        assert np.mean((image[..., 0] > 100)[shown] == (ids[shown] == 200)) > 0.95
    assert padded and len({ids.tobytes() for _, ids in found}) > 5


def test_neither_side_reads_ahead_while_the_other_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    reading: list[object] = []

    class Batches:
        def __init__(self) -> None:
            self.number = object()
            reading.append(self.number)

        def __next__(self) -> None:
            assert reading == [self.number]

        def close(self) -> None:
            if self.number in reading:
                reading.remove(self.number)

        __del__ = close

    for name in ("draw", "_as_jpeg", "prepare", "open_split"):
        monkeypatch.setattr(files, name, lambda *_, **__: None)
    monkeypatch.setattr(files, "turn", lambda case: functools.partial(_once, case))
    monkeypatch.setattr(files.pipeline, "train_batches", lambda *_, **__: Batches())
    monkeypatch.setattr(files, "crops", lambda *_: Batches())
    rows = list(files.reading(8, 2, with_torch=True))
    assert len(rows) == 20 and not reading
    assert {tuple(row.times) for row in rows} == {("ours",), ("ours", "PyTorch")}


def _once(case: Callable[[], object]) -> float:
    case()
    return 1.0
