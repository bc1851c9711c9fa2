"""`predict`: every file that can be read, as it is shown, by the label files' ids; the others are named."""

import os
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data import finder
from dpanet_jax.data.classes import Classes
from dpanet_jax.errors import DPANetError, UsageError
from dpanet_jax.evaluation import figures, predict, together
from dpanet_jax.evaluation.protocols.slide import Slide
from dpanet_jax.evaluation.protocols.whole import Whole

CLASSES = Classes.from_ids(["a", "b", "c"], [(9, 0, 0), (0, 200, 0), (0, 0, 200)], [7, 255, 11])
RAW = np.array([7, 255, 11])


@pytest.fixture
def model(threshold):
    """A trained model whose every pixel can be computed by hand. It remembers the batches it was given."""
    network = threshold()
    protocol = Whole(network)
    shapes = []
    ids = protocol.ids

    def remembered(images, variables):
        shapes.append(images.shape)
        return ids(images, variables)

    protocol.ids = remembered
    return types.SimpleNamespace(
        classes=CLASSES,
        protocol=protocol,
        device_variables=protocol.put(network.variables),
        by_hand=network.by_hand,
        shapes=shapes,
    )


def photo(path, seed=0, size=(6, 8), **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def run(model, source, output, **options):
    found = finder.find(source, leave_out=predict.earlier_outputs(output))
    predict.check_output(output, found)
    return predict.predict_files(model, found, output, **options)


def written(output):
    return sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())


def test_ids_colours_and_overlay(model, tmp_path):
    pixels = photo(tmp_path / "in/deep/x.png")
    done = run(model, tmp_path / "in", tmp_path / "out")
    assert (done.images, done.videos, done.failed) == (1, 0, [])
    assert written(tmp_path / "out") == ["color/deep/x.png", "ids/deep/x.png", "overlay/deep/x.png"]
    labels = model.by_hand(pixels)
    assert len(np.unique(labels)) == 3
    ids = read(tmp_path / "out/ids/deep/x.png")
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, RAW[labels])
    np.testing.assert_array_equal(read(tmp_path / "out/color/deep/x.png"), CLASSES.colors[labels])
    mixed = (pixels + CLASSES.colors[labels].astype(float)) / 2
    np.testing.assert_array_equal(read(tmp_path / "out/overlay/deep/x.png"), mixed.round())


def test_train_ids_on_request(model, tmp_path):
    pixels = photo(tmp_path / "x.png")
    run(model, tmp_path / "x.png", tmp_path / "out", train_ids=True)
    np.testing.assert_array_equal(read(tmp_path / "out/ids/x.png"), model.by_hand(pixels))


def test_images_of_one_size_share_batches_of_one_shape(model, tmp_path, monkeypatch):
    monkeypatch.setattr(together, "_IMAGES", 2)
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    pixels = {f"{i:02}": photo(tmp_path / f"in/{i:02}.png", i) for i in range(9)}
    pixels["wide"] = photo(tmp_path / "in/wide.png", 99, (6, 10))
    run(model, tmp_path / "in", tmp_path / "out")
    # Nine images, of which four fit: three batches, as even as can be, of a multiple of the devices.
    assert sorted(model.shapes) == [(1, 6, 10, 3)] + [(4, 6, 8, 3)] * 3
    for name, image in pixels.items():
        np.testing.assert_array_equal(read(tmp_path / f"out/ids/{name}.png"), RAW[model.by_hand(image)])


def test_a_large_image_is_alone_in_its_batch():
    devices = jax.local_device_count()
    assert together.rows_of_a_batch((1024, 2048)) == devices
    assert together.rows_of_a_batch((4000, 6000)) == devices
    assert together.rows_of_a_batch((32, 32)) == 16 * devices


def test_the_good_ones_are_predicted_and_the_bad_ones_named(model, tmp_path):
    good = {
        name: photo(tmp_path / f"in/{name}", i) for i, name in enumerate(("a.png", "c.bmp", "e.webp.png"))
    }
    cut = tmp_path / "in/b.jpg"
    photo(cut, size=(64, 64))
    cut.write_bytes(cut.read_bytes()[:600])
    (tmp_path / "in/d.png").write_text("no image")
    (tmp_path / "in/f.heic").write_bytes(b"")
    (tmp_path / "in/g.png").symlink_to("nowhere")
    (tmp_path / "in/h.png").write_bytes(b"")
    done = run(model, tmp_path / "in", tmp_path / "out")
    assert done.images == 3
    for name, image in good.items():
        stem = Path(name).stem
        np.testing.assert_array_equal(read(tmp_path / f"out/ids/{stem}.png"), RAW[model.by_hand(image)])
    assert len(written(tmp_path / "out")) == 9
    with pytest.raises(predict.PredictError) as error:
        done.require_all()
    lines = str(error.value).splitlines()
    assert lines[0] == "5 of 8 files could not be predicted" and len(lines) == 6
    for name, line in zip(("b.jpg", "d.png", "f.heic", "g.png", "h.png"), lines[1:], strict=True):
        assert line.startswith(f"  {tmp_path / 'in' / name}: ")
    assert error.value.exit_status == 1


def test_a_single_bad_file_is_one_line_and_nothing_is_written(model, tmp_path):
    (tmp_path / "x.png").write_text("no image")
    done = run(model, tmp_path / "x.png", tmp_path / "out")
    with pytest.raises(predict.PredictError, match="x.png: not a PNG") as error:
        done.require_all()
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("orientation", [3, 6])
def test_photos_lie_as_viewers_show_them(model, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = photo(tmp_path / "x.png", exif=exif)
    shown = pixels[::-1, ::-1] if orientation == 3 else pixels.transpose(1, 0, 2)[:, ::-1]
    run(model, tmp_path / "x.png", tmp_path / "out")
    np.testing.assert_array_equal(read(tmp_path / "out/ids/x.png"), RAW[model.by_hand(shown)])


def test_16_bit_images_are_scaled(model, tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (5, 7)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "x.png")
    run(model, tmp_path / "x.png", tmp_path / "out")
    grey = np.repeat((deep // 256)[..., None], 3, -1).astype(np.uint8)
    np.testing.assert_array_equal(read(tmp_path / "out/ids/x.png"), RAW[model.by_hand(grey)])


@pytest.mark.parametrize("output", ["in/out", "in", "in/deep/../out"])
def test_what_was_written_before_is_not_predicted_again(model, tmp_path, output):
    photo(tmp_path / "in/x.png")
    for _ in range(2):
        assert run(model, tmp_path / "in", tmp_path / output).images == 1
    assert written(tmp_path / output / "ids") == ["x.png"]


def test_links_hidden_files_and_long_or_odd_names(model, tmp_path):
    photo(tmp_path / "elsewhere/y.png", 1)
    photo(tmp_path / "in/.hidden.png")
    photo(tmp_path / "in/.thumbs/x.png")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    long = "x" * 251
    photo(tmp_path / f"in/{long}.png", 2)
    odd = os.fsdecode(b"caf\xe9 \n'\"")
    photo(tmp_path / "in" / f"{odd}.png", 3)
    nfd = "cafe\u0301"
    photo(tmp_path / "in" / f"{nfd}.png", 4)
    assert run(model, tmp_path / "in", tmp_path / "out").failed == []
    names = {path.name for path in (tmp_path / "out/ids").iterdir()}
    assert names == {"link", f"{long}.png", f"{odd}.png", f"{nfd}.png"}


def test_an_output_whose_name_is_too_long_is_named(model, tmp_path):
    photo(tmp_path / "in/good.png")
    path = tmp_path / "in" / ("x" * 254)
    photo(path, format="PNG")
    done = predict.predict_files(
        model, {Path(path.name): path, Path("good"): tmp_path / "in/good.png"}, tmp_path / "out"
    )
    assert done.images == 1 and done.failed == [f"{path}: the name of its output is too long; rename it"]


def test_pillows_limit(model, tmp_path, monkeypatch):
    photo(tmp_path / "in/small.png", size=(4, 4))
    photo(tmp_path / "in/survey.png", size=(9, 9))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    done = run(model, tmp_path / "in", tmp_path / "out")
    assert done.images == 1
    assert (
        "survey.png: unreadable (9x9 is more than 40 pixels, Pillow's limit); cut it into tiles"
        in done.failed[0]
    )


def test_an_image_that_the_device_does_not_hold(model, tmp_path):
    """Its batch is put through one by one, and what fails alone is named."""
    for i in range(3):
        photo(tmp_path / f"in/{i}.png", i)
    photo(tmp_path / "in/large.png", size=(20, 20))
    ids = model.protocol.ids

    def limited(images, variables):
        if images.shape[0] > 1 or images.shape[1] > 10:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return ids(images, variables)

    model.protocol.ids = limited
    done = run(model, tmp_path / "in", tmp_path / "out")
    assert done.images == 3
    (text,) = done.failed
    assert "large.png: 20x20 is more than the device's memory holds; --base_size" in text


def test_another_error_of_the_device_is_raised(model, tmp_path):
    photo(tmp_path / "in/x.png")

    def broken(images, variables):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    model.protocol.ids = broken
    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
        run(model, tmp_path / "in", tmp_path / "out")


def test_an_output_that_cannot_be_written_ends_the_work(model, tmp_path, monkeypatch):
    for i in range(4):
        photo(tmp_path / f"in/{i}.png", i)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run(model, tmp_path / "in", tmp_path / "out")


def test_two_inputs_of_one_output_and_outputs_over_inputs(model, tmp_path):
    photo(tmp_path / "two/x.png")
    photo(tmp_path / "two/x.jpg")
    with pytest.raises(UsageError, match="x.jpg and .*x.png: two files of one name"):
        finder.find(tmp_path / "two")
    photo(tmp_path / "data/ids/x.png")
    found = finder.find(tmp_path / "data/ids")
    with pytest.raises(
        UsageError, match="ids/x.png would be replaced by a prediction; choose another --output"
    ):
        predict.check_output(tmp_path / "data", found)
    predict.check_output(tmp_path / "elsewhere", found)


def test_a_video_and_a_folder_of_one_name(tmp_path):
    found = {Path("x"): tmp_path / "x.mp4", Path("x/0"): tmp_path / "x/0.png"}
    with pytest.raises(UsageError, match="x.mp4 and .*x/0.png: both write below ids/x; rename one"):
        predict.check_output(tmp_path / "out", found)


def test_an_output_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DPANetError, match="file is a file: --output must be a folder"):
        predict.check_output(tmp_path / "file", {})
    with pytest.raises(DPANetError, match="file is a file: --output=.*must be a folder below one"):
        predict.check_output(tmp_path / "file/below", {})


@pytest.mark.parametrize("count", [1, 4, 8])
def test_what_whole_compiles_for_is_said_before(model, tmp_path, count):
    """As many sizes as are compiled; where they are many, `slide` is named. A damaged file has no size."""
    for i in range(count):
        photo(tmp_path / f"in/{i}.png", i, size=(6 + i, 8))
        photo(tmp_path / f"in/{i}_again.png", i, size=(6 + i, 8))
    (tmp_path / "in/damaged.png").write_text("no image")
    said = []

    def tell(line):
        said.append((line, model.protocol._ids._cache_size()))

    run(model, tmp_path / "in", tmp_path / "out", tell=tell)
    ((line, compiled),) = said
    assert compiled == 0 and model.protocol._ids._cache_size() == count
    words = f"protocol whole: the network is compiled for {count} size{'s' * (count > 1)} of images"
    assert line.startswith(words) and ("slide (--protocol, config.ev" in line) == (count == 8)


def test_eight_sizes_in_windows_compile_as_little_as_one(threshold, tmp_path):
    """All that JAX compiles, in a whole `predict`; and each image's windows have its own ids."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None
    )
    counts = []
    for sizes in ([(6, 8), (9, 5)], [(7, 9)] * 8, [(3 + 2 * i, 20 - i) for i in range(8)]):
        folder = tmp_path / str(len(counts))
        pixels = [photo(folder / f"in/{i}.png", i, size=size) for i, size in enumerate(sizes)]
        protocol = Slide(threshold(), window=(5, 6))
        windowed = types.SimpleNamespace(
            classes=CLASSES, protocol=protocol, device_variables=protocol.put(threshold.variables)
        )
        compiled.clear()
        run(windowed, folder / "in", folder / "out", tell=pytest.fail)
        counts.append(len(compiled))
        for i, image in enumerate(pixels):
            np.testing.assert_array_equal(read(folder / f"out/ids/{i}.png"), RAW[threshold.by_hand(image)])
    # The first run has compiled what any predictions need.
    assert 0 < counts[1] and counts[2] <= counts[1] + 3


def test_progress_counts_the_images(model, tmp_path):
    for i in range(3):
        photo(tmp_path / f"in/{i}.png", i)
    seen = []

    def progress(items):
        seen.append(len(items))
        for item in items:
            seen.append(item)
            yield item

    run(model, tmp_path / "in", tmp_path / "out", progress=progress)
    assert seen == [3, Path("0"), Path("1"), Path("2")]


def test_warnings_are_left_as_they_are(model, tmp_path):
    import warnings

    for i in range(8):
        photo(tmp_path / f"in/{i}.png", i)
    before = list(warnings.filters)
    run(model, tmp_path / "in", tmp_path / "out")
    assert list(warnings.filters) == before


@pytest.mark.parametrize("asked", [0, 3])
def test_as_many_threads_read_as_are_asked_for(model, tmp_path, monkeypatch, asked):
    """More than there are cores where it is said, and else what the cores allow."""
    photo(tmp_path / "in" / "a.png")
    monkeypatch.setattr(predict.cores, "readers", lambda: 5)
    started, pool = [], predict.concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(
        predict.concurrent.futures, "ThreadPoolExecutor", lambda n: started.append(n) or pool(n)
    )
    assert run(model, tmp_path / "in", tmp_path / "out", num_threads=asked).images == 1
    assert (asked or 5) in started
