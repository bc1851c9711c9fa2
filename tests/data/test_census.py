"""What `prepare` counts, and what it says or refuses for it."""

import json

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data.listing import DataError
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare

CSV = "name,red,green,blue\nbackground,0,0,0\nobject,255,0,0\n"


def source(root, label, classes=CSV, counts=(("train", 3), ("val", 2)), image=None):
    """A folder whose labels are `label(split, number)`."""
    rng = np.random.default_rng(0)
    for split, count in counts:
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8) if image is None else image(split, i)
            Image.fromarray(pixels).save(root / f"images/{split}/{i}.png")
            Image.fromarray(label(split, i)).save(root / f"labels/{split}/{i}.png")
    (root / "classes.csv").write_text(classes)
    return root


def half(*_, fg=1):
    """Half of it background; of the rest all is `fg`."""
    label = np.zeros((4, 6), np.uint8)
    label[:2] = fg
    return label


def test_pixels_are_counted_shown_and_stored(tmp_path, capfd):
    def label(split, i):
        ids = np.zeros((4, 6), np.uint8)
        ids[0, : i + 1] = 1
        ids[1, 0] = 255
        return ids

    root = source(tmp_path / "source", label)
    prepared = prepare("folder", tmp_path / "data", root)
    expected = {
        "train": {"classes": [3 * 23 - 6, 6], "ignored": 3},
        "val": {"classes": [2 * 23 - 3, 3], "ignored": 2},
    }
    assert prepared.pixels == expected and prepared.notes == ()
    assert json.loads((prepared.path / "metadata.json").read_text())["pixels"] == expected
    for split, counts in expected.items():
        labels = np.stack([e["label"] for e in open_split("folder", split, tmp_path / "data")])
        assert [(labels == k).sum() for k in (0, 1, 255)] == [*counts["classes"], counts["ignored"]]
    out = capfd.readouterr().out
    (row,) = [line for line in out.splitlines() if "object" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["object", "6", "8.70", "3", "6.52"]
    assert prepare("folder", tmp_path / "data", root).pixels == expected
    assert "labelled pixels" in capfd.readouterr().out
    assert prepare("folder", tmp_path / "data", root, quiet=True).already
    assert capfd.readouterr().out == ""


def test_a_data_set_of_before_pixels_were_counted(tmp_path, capfd):
    prepared = prepare("folder", tmp_path / "data", source(tmp_path / "source", half), quiet=True)
    path = prepared.path / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["pixels"], metadata["notes"]
    metadata["options"] = {}
    path.write_text(json.dumps(metadata))
    again = prepare("folder", tmp_path / "data", tmp_path / "source", label_suffix="")
    assert again.already and again.pixels is None and again.notes == ()
    assert "labelled" not in capfd.readouterr().out
    assert open_split("folder", "train", tmp_path / "data")[0]["label"].tolist() == half().tolist()


def test_a_class_named_like_markup_is_shown_as_it_is(tmp_path, capfd):
    classes = "name,red,green,blue\n[bold],0,0,0\n[/x],255,0,0\n"
    prepare("folder", tmp_path / "data", source(tmp_path / "source", half, classes))
    out = capfd.readouterr().out
    assert "[bold]" in out and "[/x]" in out


def refused(tmp_path, *arguments, **options):
    with pytest.raises(DataError) as error:
        prepare("folder", tmp_path / "data", source(tmp_path / "source", *arguments, **options), quiet=True)
    assert not (tmp_path / "data").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_masks_of_0_and_255(tmp_path):
    text = refused(tmp_path, lambda *_: half(fg=255))
    assert "every labelled pixel is 'background', and not one is 'object'" in text
    assert "50.0% of the pixels are 255, which is ignored: if that is 'object', give 255 as its id" in text


def test_the_advice_for_masks_of_0_and_255_works(tmp_path):
    classes = "name,red,green,blue,id\nbackground,0,0,0,0\nobject,255,0,0,255\n"
    root = source(tmp_path / "source", lambda *_: half(fg=255), classes)
    prepared = prepare("folder", tmp_path / "data", root, quiet=True)
    assert prepared.pixels["train"] == {"classes": [36, 36], "ignored": 0}
    assert open_split("folder", "val", tmp_path / "data")[0]["label"].tolist() == half().tolist()


def test_one_class_in_all_labels(tmp_path):
    text = refused(tmp_path, lambda *_: half(fg=0))
    assert "not one is 'object', so there is nothing to learn" in text and "255" not in text


@pytest.mark.parametrize(
    ("classes", "advice"),
    [
        ("name,id,red,green,blue\nobject,1,255,0,0\nignore,0,0,0,0\n", "name the row of id 0 background"),
        (
            "name,id,red,green,blue\nobject,1,255,0,0\n",
            "add a row for the rest, such as one named background",
        ),
    ],
)
def test_one_class_alone(tmp_path, classes, advice):
    fg = (lambda *_: half()) if "ignore" in classes else (lambda *_: np.ones((4, 6), np.uint8))
    text = refused(tmp_path, fg, classes)
    assert "'object' is the only class" in text and advice in text


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_a_labelled_pixel(tmp_path, split):
    def label(of, _):
        return np.full((4, 6), 255, np.uint8) if of == split else half()

    text = refused(tmp_path, label, counts=(("train", 2), ("val", 1), ("test", 1)))
    assert f"{split}: every pixel of its labels is ignored (they hold the ids 255 alone)" in text
    assert ("take the labels of test away" in text) == (split == "test")


def test_classes_without_a_pixel_are_said(tmp_path):
    classes = CSV + "rare,0,255,0\n"
    root = source(
        tmp_path / "source", lambda split, i: half(fg=2 if (split, i) == ("val", 0) else 1), classes
    )
    prepared = prepare("folder", tmp_path / "data", root, quiet=True)
    assert prepared.notes == ("train has not one pixel of 'rare': the network cannot learn it",)


def test_an_image_in_two_splits_is_said(tmp_path):
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (3, 4, 6, 3)).astype(np.uint8)
    root = source(
        tmp_path / "source", half, image=lambda split, i: pictures[i if split == "train" else i + 1]
    )
    (note,) = prepare("folder", tmp_path / "data", root, quiet=True).notes
    assert note.startswith("val: images that are also in train: 2, such as ") and "images/val/0.png" in note


def test_flat_and_dark_images_are_said(tmp_path):
    root = source(tmp_path / "source", half, image=lambda _, i: np.full((4, 6), 7 + i, np.uint8))
    notes = prepare("folder", tmp_path / "data", root, quiet=True).notes
    assert any(note.startswith("train: images of one flat value: 3 of 3, such as ") for note in notes)


def test_pixels_of_12_bits_in_files_of_16_are_said(tmp_path):
    rng = np.random.default_rng(1)
    root = source(tmp_path / "source", half, image=lambda *_: rng.integers(0, 3000, (4, 6)).astype(np.uint16))
    notes = prepare("folder", tmp_path / "data", root, quiet=True).notes
    assert any("train: no image has a value above 11 of 255. 16-bit values are divided" in n for n in notes)
