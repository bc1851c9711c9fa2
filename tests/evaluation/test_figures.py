"""Pictures: colours where the labels say, nothing where they are ignored, and whole files only."""

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data.classes import Classes
from dpanet_jax.evaluation import figures

CLASSES = Classes.from_ids(["a", "b"], [(200, 0, 100), (0, 50, 250)])


def test_overlay_mixes_colors_and_leaves_ignored_pixels():
    image = np.full((2, 2, 3), 100, np.uint8)
    labels = np.array([[0, 1], [255, 0]], np.uint8)
    mixed = figures.overlay(image, labels, CLASSES, opacity=0.25)
    np.testing.assert_array_equal(mixed[0, 0], [125, 75, 100])
    np.testing.assert_array_equal(mixed[0, 1], [75, 88, 138])
    np.testing.assert_array_equal(mixed[1, 0], [100, 100, 100])


def test_sheet_has_a_row_for_each_example_and_a_column_for_each_kind():
    rng = np.random.default_rng(0)
    kept = [
        figures.Kept(
            image=rng.integers(0, 255, (10, 20, 3)).astype(np.uint8),
            label=np.full((10, 20), k, np.uint8),
            prediction=np.full((10, 20), 1 - k, np.uint8),
        )
        for k in (0, 1)
    ]
    sheet = figures.comparison(kept, CLASSES, width=40)
    assert sheet.shape[1] == 3 * 40 + 2 * 4 and sheet.shape[0] == 16 + 2 * 20 + 4
    for row, (label, prediction) in enumerate([(0, 1), (1, 0)]):
        y = 16 + row * 24 + 10
        np.testing.assert_array_equal(sheet[y, 44 + 20], CLASSES.colors[label])
        np.testing.assert_array_equal(sheet[y, 88 + 20], CLASSES.colors[prediction])


def test_save_leaves_no_half_file(tmp_path):
    path = figures.save(np.full((3, 4), 7, np.uint8), tmp_path / "a" / "ids.png")
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.full((3, 4), 7))
    with pytest.raises(TypeError):
        figures.save(np.zeros((3, 4, 7), np.float16), path)
    with Image.open(path) as picture:
        assert picture.size == (4, 3)
    assert [p.name for p in path.parent.iterdir()] == ["ids.png"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'ids.png'}'"):
        figures.save(np.zeros((3, 4), np.uint8), tmp_path / "ids.png")
    assert not list(tmp_path.iterdir())


def test_an_overlay_of_many_rows_is_the_same_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (13, 5, 3)).astype(np.uint8)
    labels = rng.choice([0, 1, 255], (13, 5)).astype(np.uint8)
    whole = figures.overlay(image, labels, CLASSES)
    monkeypatch.setattr(figures, "_BLOCK", 10)
    np.testing.assert_array_equal(figures.overlay(image, labels, CLASSES), whole)


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1)])
def test_pictures_of_odd_shapes_fit_a_sheet(size):
    kept = figures.Kept(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), np.zeros(size, np.uint8))
    sheet = figures.comparison([kept], CLASSES, width=40)
    assert sheet.shape[1] == 3 * 40 + 2 * 4 and 16 < sheet.shape[0] <= 16 + 3 * 40
