"""`prepare` of a source with something wrong: every error names its files, and nothing is written."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dpanet_jax.data
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.location import dataset_dir
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare

ROOT = Path(dpanet_jax.data.__file__).parents[2]


def wrong_size(source):
    Image.new("L", (8, 9)).save(source / "labels/train/0001.png")
    return "0001.png is 32x24 and .*0001.png is 8x9: sizes differ"


def truncated_image(source):
    path = source / "images/train/0001.png"
    path.write_bytes(path.read_bytes()[:-40])
    return "images/train/0001.png: unreadable"


def truncated_jpeg(source):
    path = source / "images/train/0001.png"
    image = Image.open(path).resize((64, 48)).resize((32, 24))
    path.unlink()
    image.save(path.with_suffix(".jpg"))
    encoded = path.with_suffix(".jpg").read_bytes()
    path.with_suffix(".jpg").write_bytes(encoded[: len(encoded) - 60])
    return "images/train/0001.jpg: unreadable"


def not_an_image(source):
    (source / "labels/val/0000.png").write_text("not a picture")
    return "labels/val/0000.png: not a PNG, JPEG, BMP, TIFF or WebP image"


def unknown_id(source):
    Image.new("L", (32, 24), 3).save(source / "labels/val/0000.png")
    return (
        "labels/val/0000.png: label id 3 is not one of the 3 classes or ignored;"
        " a row named ignore in classes.csv leaves an id out"
    )


def colour_label(source):
    Image.new("RGB", (32, 24), (9, 8, 7)).save(source / "labels/val/0000.png")
    return r"labels/val/0000.png: colour \(9, 8, 7\) is not in classes.csv"


def deep_label(source):
    Image.fromarray(np.full((24, 32), 700, np.uint16)).save(source / "labels/val/0000.png")
    return "labels/val/0000.png: label id 700; ids are 0 to 255"


def shallow_label(source):
    (source / "classes.csv").write_text("name,red,green,blue,id\na,1,2,3,0\nb,4,5,6,2\nc,7,8,9,3\n")
    for path in (source / "labels").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * 2 % 4).save(path)
    Image.new("1", (32, 24), 1).save(source / "labels/val/0000.png")
    return "labels/val/0000.png: label id 1 is not one of the 3 classes"


def jpeg_label(source):
    Image.new("L", (32, 24)).save(source / "labels/val/0000.png", format="JPEG")
    return "labels/val/0000.png: a JPEG file; labels must be PNG"


def deep_image(source):
    Image.new("F", (32, 24)).save(source / "images/val/0000.png", format="TIFF")
    return "images/val/0000.png: pixels of kind F, fractions"


def lone_image(source):
    (source / "labels/val/0000.png").unlink()
    return "images/val/0000.png: image without a label"


def lone_label(source):
    (source / "images/val/0000.png").unlink()
    return "labels/val/0000.png: label without an image"


@pytest.mark.parametrize(
    "damage",
    [
        wrong_size,
        truncated_image,
        truncated_jpeg,
        not_an_image,
        unknown_id,
        colour_label,
        deep_label,
        shallow_label,
        jpeg_label,
        deep_image,
        lone_image,
        lone_label,
    ],
)
def test_a_damaged_source_is_named_and_nothing_is_written(tmp_path, make_folder, damage):
    source = make_folder(tmp_path / "source")
    message = damage(source)
    with pytest.raises(DataError, match=message):
        prepare("folder", tmp_path / "data", source, quiet=True)
    assert not (tmp_path / "data").exists()


def test_all_problems_are_collected_and_ten_are_shown(tmp_path, make_folder):
    source = make_folder(tmp_path / "source", counts=(("train", 14), ("val", 1)))
    for i in range(12):
        Image.new("L", (32, 24), 200 + i).save(source / f"labels/train/{i:04}.png")
    (source / "labels/train/0013.png").unlink()
    with pytest.raises(DataError) as error:
        prepare("folder", tmp_path / "data", source, quiet=True)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{source}: 13 problems"
    assert len(lines) == 12 and lines[-1] == "  and 3 more"
    assert "0013.png: image without a label" in lines[1]
    assert len(error.value.problems) == 13


def test_what_is_wrong_with_many_files_is_said_once(tmp_path, make_folder):
    source = make_folder(tmp_path / "source")
    for path in (source / "images").rglob("*.png"):
        path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError) as error:
        prepare("folder", tmp_path / "data", source, quiet=True)
    first, line = str(error.value).splitlines()
    assert first == f"{source}: 8 problems" and len(error.value.problems) == 8
    assert line.startswith(f"  {source / 'images/train/0000.png'} and 7 more: not a PNG")


def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path, make_folder, run_script):
    source = make_folder(tmp_path / "source", counts=(("train", 40), ("val", 3)))
    script = """
        import resource, sys
        from dpanet_jax.__main__ import main
        from dpanet_jax.data import storage
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        source, data = sys.argv[1:]
        sys.exit(main(["prepare", "--dataset=folder", f"--source={source}", f"--data_dir={data}"]))
    """
    done = run_script(script, source, tmp_path / "data")
    target = dataset_dir("folder", tmp_path / "data")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"dpanet_jax: {target}: not written (File too large); nothing of it is left"
    assert "Traceback" not in done.stderr
    assert [path.name for path in target.parent.iterdir()] == [".lock"]


def test_an_archive_for_a_source(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="data.zip: a file; unpack it, and name the folder with --source"):
        prepare("folder", tmp_path / "data", tmp_path / "data.zip", quiet=True)


def test_names_that_are_not_text(tmp_path, make_folder):
    source = make_folder(tmp_path / "source")
    odd = os.fsdecode(b"caf\xe9")
    for kind in ("images", "labels"):
        (source / kind / "val/0000.png").rename(source / kind / "val" / f"{odd}.png")
    prepare("folder", tmp_path / "data", source, quiet=True)
    assert [e["name"] for e in open_split("folder", "val", tmp_path / "data")] == ["0001", "0002", odd]
