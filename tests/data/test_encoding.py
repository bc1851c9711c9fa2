"""The forms that `prepare --store` keeps images in."""

import io
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from dpanet_jax.__main__ import main
from dpanet_jax.data.encoding import Encoding
from dpanet_jax.data.pipeline import open_split
from dpanet_jax.data.prepare import prepare
from dpanet_jax.errors import UsageError

FORMS = {"png": ["PNG"] * 3, "jpeg": ["JPEG"] * 3, "raw": ["BMP"] * 3, "source": ["PNG", "JPEG", "PNG"]}


@pytest.fixture(scope="module")
def data_dirs(tmp_path_factory):
    """{form: a data_dir with the same folder in it}; its images of train are a PNG, a JPEG and a TIFF."""
    root = tmp_path_factory.mktemp("forms")
    source, rng = root / "source", np.random.default_rng(0)
    source.mkdir()
    (source / "classes.csv").write_text("name,red,green,blue\nroad,128,64,128\nsky,70,130,180\n")
    for split, suffixes in (("train", ("png", "jpg", "tif")), ("val", ("png",))):
        for i, suffix in enumerate(suffixes):
            for kind in ("images", "labels"):
                (source / kind / split).mkdir(parents=True, exist_ok=True)
            # Smooth, so that a JPEG is near it.
            low = Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
            low.resize((33, 24), Image.Resampling.BICUBIC).save(source / f"images/{split}/{i}.{suffix}")
            Image.fromarray(rng.integers(0, 2, (24, 33)).astype(np.uint8)).save(
                source / f"labels/{split}/{i}.png"
            )
    made = {"source": prepare("folder", root / "default", source, quiet=True)}
    for form in ("png", "jpeg", "raw"):
        made[form] = prepare("folder", root / form, source, quiet=True, store=form)
    made["jpeg 60"] = prepare("folder", root / "jpeg 60", source, quiet=True, store="jpeg", store_quality=60)
    return source, {form: (root / ("default" if form == "source" else form), made[form]) for form in made}


def records(prepared, split="train"):
    """What is stored, undecoded."""
    skip = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
    return list(tfds.builder_from_directory(prepared.path).as_data_source(split, decoders=skip))


@pytest.mark.parametrize("form", FORMS)
def test_images_have_the_form_and_labels_are_as_they_were(data_dirs, form):
    source, made = data_dirs
    stored = records(made[form][1])
    assert [Image.open(io.BytesIO(record["image"])).format for record in stored] == FORMS[form]
    for i, record in enumerate(stored):
        assert record["label"] == (source / f"labels/train/{i}.png").read_bytes()
    metadata = json.loads((made[form][1].path / "metadata.json").read_text())
    assert metadata["encoding"] == {"store": form, "store_quality": 95}


def test_what_has_the_form_is_kept_byte_for_byte(data_dirs):
    source, made = data_dirs
    png, jpeg = ((source / f"images/train/{name}").read_bytes() for name in ("0.png", "1.jpg"))
    assert records(made["source"][1])[0]["image"] == records(made["png"][1])[0]["image"] == png
    assert records(made["source"][1])[1]["image"] == records(made["jpeg"][1])[1]["image"] == jpeg


@pytest.mark.parametrize(
    ("form", "least", "most"), [("png", 0, 0), ("raw", 0, 0), ("jpeg", 1, 8), ("jpeg 60", 4, 60)]
)
def test_png_and_raw_lose_nothing_and_jpeg_little(data_dirs, form, least, most):
    source, made = data_dirs
    losses = []
    for i, suffix in enumerate(("png", "jpg", "tif")):
        pixels = np.asarray(Image.open(source / f"images/train/{i}.{suffix}"), np.int16)
        losses.append(np.abs(open_split("folder", "train", made[form][0])[i]["image"] - pixels).max())
    assert losses[1] == 0 and least <= losses[0] <= most and least <= losses[2] <= most


def test_a_run_goes_on_with_the_same_pixels_alone(data_dirs):
    made = data_dirs[1]
    assert made["source"][1].fingerprint == made["png"][1].fingerprint == made["raw"][1].fingerprint
    assert len({made[form][1].fingerprint for form in ("source", "jpeg", "jpeg 60")}) == 3


def test_jpegs_alone_are_the_same_in_jpeg(tmp_path, make_camvid):
    source = make_camvid(tmp_path / "source", suffix=".jpg")
    kept = prepare("camvid", tmp_path / "kept", source, quiet=True)
    assert (
        prepare("camvid", tmp_path / "jpeg", source, quiet=True, store="jpeg").fingerprint == kept.fingerprint
    )


def test_another_form_of_what_is_prepared_is_refused(data_dirs):
    source, made = data_dirs
    data_dir, first = made["jpeg"]
    assert str(first).startswith(
        "folder prepared: 3 train, 1 val, 2 classes, images as jpeg of quality 95, in "
    )
    for again in ({}, {"store": "jpeg"}):
        assert "already prepared: 3 train, 1 val, 2 classes, images as jpeg of quality 95" in str(
            prepare("folder", data_dir, source, quiet=True, **again)
        )
    for other in ({"store": "png"}, {"store": "source"}, {"store": "jpeg", "store_quality": 60}):
        with pytest.raises(
            UsageError, match="was prepared with images as jpeg of quality 95; use --overwrite"
        ):
            prepare("folder", data_dir, source, quiet=True, **other)
    with pytest.raises(UsageError, match="was prepared with images as the source has them; use --overwrite"):
        prepare("folder", made["source"][0], source, quiet=True, store="raw")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--store=tiff"], "folder: store='tiff': choose one of source, jpeg, png, raw"),
        (["--store=jpeg", "--store_quality=101"], "folder: store_quality=101"),
        (
            ["--store=raw", "--store_quality=80"],
            "folder: store_quality=80: store=raw has none; set store to jpeg",
        ),
    ],
)
def test_wrong_flags(tmp_path, capfd, flags, words):
    command = ["prepare", "--dataset=folder", f"--source={tmp_path}", f"--data_dir={tmp_path / 'data'}"]
    assert main([*command, *flags]) == 2
    assert words in capfd.readouterr().err and not (tmp_path / "data").exists()


def test_the_flags_reach_the_store(tmp_path, make_folder, capfd):
    source = make_folder(tmp_path / "source")
    command = ["prepare", "--dataset=folder", f"--source={source}", f"--data_dir={tmp_path / 'data'}"]
    assert main([*command, "--store=jpeg", "--store_quality=60"]) == 0
    assert "images as jpeg of quality 60, in " in capfd.readouterr().out


def test_a_greyscale_image_in_each_form():
    pixels = np.full((5, 7, 3), 100, np.uint8)
    for form in FORMS:
        image = Image.open(io.BytesIO(Encoding(store=form).encode(pixels)))
        assert image.mode == "RGB" and np.abs(np.asarray(image, np.int16) - 100).max() <= 1
