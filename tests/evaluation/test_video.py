"""Videos, frame by frame: with PyAV, and what is said without it."""

import types
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data import finder
from dpanet_jax.data.classes import Classes
from dpanet_jax.errors import UsageError
from dpanet_jax.evaluation import predict, together, video
from dpanet_jax.evaluation.protocols.whole import Whole

CLASSES = Classes.from_ids(["a", "b", "c"], [(250, 0, 0), (0, 200, 0), (0, 0, 200)], [7, 8, 11])


@pytest.fixture
def model(threshold):
    network = threshold()
    protocol = Whole(network)
    return types.SimpleNamespace(
        classes=CLASSES,
        protocol=protocol,
        device_variables=protocol.put(network.variables),
        by_hand=network.by_hand,
    )


def film(path, count=7, size=(48, 64), rate=Fraction(12), codec="mpeg4"):
    """A white square that moves over a dark left half and a green right one."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for i in range(count):
            pixels = np.zeros((*size, 3), np.uint8)
            pixels[:, size[1] // 2 :, 1] = 200
            pixels[4:20, 3 * i : 3 * i + 16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def frames(path):
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = [(f.to_ndarray(format="rgb24"), f.time) for f in container.decode(stream)]
        return [pixels for pixels, _ in decoded], [time for _, time in decoded], stream.average_rate


def run(model, source, output, **options):
    found = finder.find(source)
    predict.check_output(output, found)
    return predict.predict_files(model, found, output, **options)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv"])
def test_every_frame_is_segmented(model, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(together, "_IMAGES", 1)
    source = film(tmp_path / f"in/clip{suffix}")
    done = run(model, tmp_path / "in", tmp_path / "out")
    assert (done.images, done.videos, done.failed) == (0, 1, [])
    originals, times, rate = frames(source)
    folder = tmp_path / "out/ids/clip"
    assert sorted(path.name for path in folder.iterdir()) == [f"{i:06}.png" for i in range(7)]
    raw = np.array([7, 8, 11])
    colors, color_times, color_rate = frames(tmp_path / "out/color/clip.mp4")
    overlays, overlay_times, _ = frames(tmp_path / "out/overlay/clip.mp4")
    assert len(colors) == len(overlays) == 7
    # Matroska rounds times to milliseconds, which are kept.
    assert float(color_rate) == pytest.approx(float(rate), rel=1e-4)
    np.testing.assert_allclose(np.subtract(color_times, color_times[0]), np.subtract(times, times[0]))
    assert color_times == overlay_times
    for i, original in enumerate(originals):
        labels = model.by_hand(original)
        with Image.open(folder / f"{i:06}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), raw[labels])
        # A video is lossy, so its colours are near, but for the borders.
        near = np.abs(colors[i].astype(int) - CLASSES.colors[labels]).max(-1) < 40
        assert near.mean() > 0.8
        assert overlays[i].shape == original.shape


def test_a_second_run_replaces_the_first(model, tmp_path):
    film(tmp_path / "in/clip.mp4")
    run(model, tmp_path / "in", tmp_path / "out")
    film(tmp_path / "in/clip.mp4", count=3)
    run(model, tmp_path / "in", tmp_path / "out")
    assert len(list((tmp_path / "out/ids/clip").iterdir())) == 3
    assert {path.name for path in (tmp_path / "out/ids").iterdir()} == {"clip"}


def test_odd_sizes(model, tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    path = tmp_path / "clip.mkv"
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.height, stream.width, stream.pix_fmt = 33, 47, "bgr0"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    assert run(model, path, tmp_path / "out").failed == []
    assert frames(tmp_path / "out/overlay/clip.mp4")[0][0].shape == (33, 47, 3)
    with Image.open(tmp_path / "out/ids/clip/000000.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.array([7, 8, 11])[model.by_hand(pixels)])


def test_a_phone_held_upright(model, tmp_path):
    """The matrix of the track says how the stored frames are to be turned: here by 90 degrees clockwise."""
    path = film(tmp_path / "clip.mp4")
    encoded = bytearray(path.read_bytes())
    matrix = encoded.index(b"tkhd") + 4 + 40
    turned = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    assert encoded[matrix : matrix + 4] == bytes([0, 1, 0, 0])
    encoded[matrix : matrix + 36] = turned
    stored = frames(path)[0]
    path.write_bytes(encoded)
    run(model, path, tmp_path / "out")
    with Image.open(tmp_path / "out/ids/clip/000002.png") as image:
        ids = np.asarray(image)
    assert ids.shape == (64, 48)
    clockwise = stored[2].transpose(1, 0, 2)[:, ::-1]
    np.testing.assert_array_equal(ids, np.array([7, 8, 11])[model.by_hand(clockwise)])
    assert frames(tmp_path / "out/overlay/clip.mp4")[0][0].shape == (64, 48, 3)


@pytest.mark.parametrize("damage", ["text", "half", "sound"])
def test_a_bad_video_among_good_files(model, tmp_path, damage):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    film(tmp_path / "in/good.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "in/x.png")
    bad = film(tmp_path / "in/bad.mp4", count=60)
    if damage == "text":
        bad.write_text("no video")
    elif damage == "half":
        bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    else:
        with av.open(str(bad), "w") as container:
            stream = container.add_stream("aac", rate=44100)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
            sound.sample_rate = 44100
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
    done = run(model, tmp_path / "in", tmp_path / "out")
    assert (done.images, done.videos) == (1, 1)
    (text,) = done.failed
    assert text.startswith(f"{bad}: ") and "\n" not in text
    kinds = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").glob("*/*")}
    assert kinds == {
        "ids/good",
        "ids/x.png",
        *(f"{kind}/{name}" for kind in ("color", "overlay") for name in ("good.mp4", "x.png")),
    }


def test_without_pyav(model, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "is_installed", lambda: False)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/clip.mp4").write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"clip.mp4: a video, which takes PyAV to read: pip install 'dpanet_jax\[video\]'"
    ):
        run(model, tmp_path / "in", tmp_path / "out")
    Image.new("RGB", (8, 8)).save(tmp_path / "in/x.png")
    done = run(model, tmp_path / "in", tmp_path / "out")
    assert done.images == 1 and "dpanet_jax[video]" in done.failed[0]
