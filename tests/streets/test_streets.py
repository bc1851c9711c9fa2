"""Street scenes: the same for the same seed, whole in their classes, and written whole or not at all."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data.datasets.cityscapes import CITYSCAPES
from dpanet_jax.errors import DPANetError
from dpanet_jax.streets import plan, scene, write
from dpanet_jax.streets.camera import Camera, Frame
from dpanet_jax.streets.canvas import Canvas, Label

SMALL = (32, 64)
IGNORED = 200
CLASSES = list(zip(CITYSCAPES.names, CITYSCAPES.colors.tolist(), strict=True))


def draw_scene(seed, size):
    return scene.draw_scene(seed, size, ignore_label=IGNORED)


def write_streets(folder, num_train, num_val, size, seed=0, **how):
    options = dict(classes=CLASSES, ignore_label=IGNORED) | how
    return write.write_streets(folder, num_train=num_train, num_val=num_val, size=size, seed=seed, **options)


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(seed, (64, 128)) for seed in range(40)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streets") / "drawn"
    assert write_streets(folder, 3, 2, SMALL, seed=5, processes=1) == folder
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def camera(**changes) -> Camera:
    values = dict(
        height=100, width=200, focal=150.0, horizon=0.45, position=(1.5, 1.8, 0.0), yaw=0.1, pitch=-0.05,
        roll=0.02, bend=0.003,
    )  # fmt: skip
    return Camera(**(values | changes))


@pytest.mark.parametrize("size", [(64, 128), (40, 40), (96, 33), (256, 512)])
def test_sizes_types_and_values(size):
    image, label = draw_scene(3, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert label.shape == size and label.dtype == np.uint8
    assert set(np.unique(label).tolist()) <= {*range(19), IGNORED}
    assert image.std() > 10


def test_a_scene_depends_on_its_seed_alone(scenes):
    for seed in (7, 2**40 + 1):
        first, second = draw_scene(seed, SMALL), draw_scene(seed, SMALL)
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    for i, (image, _) in enumerate(scenes):
        assert not any(np.array_equal(image, other) for other, _ in scenes[:i])


def test_a_scene_keeps_its_plan_at_every_size():
    small, large = draw_scene(11, (64, 128))[1], draw_scene(11, (128, 256))[1]
    assert np.mean(small == large[1::2, 1::2]) > 0.85


def test_labels_are_the_train_ids_of_cityscapes():
    names = [name.replace(" ", "_").upper() for name in CITYSCAPES.names]
    assert {label.name: label.value for label in Label} == {name: i for i, name in enumerate(names)}


def test_every_class_is_seen_often_and_large_enough(scenes):
    counts = np.stack([np.bincount(label.ravel(), minlength=256)[:19] for _, label in scenes])
    pixels = scenes[0][1].size
    often = (counts > 0.001 * pixels).mean(0)
    assert often.min() >= 0.2, dict(zip(CITYSCAPES.names, often.tolist(), strict=True))
    assert (counts.mean(0) / pixels).min() > 0.002
    assert all(np.mean(label == IGNORED) < 0.1 for _, label in scenes)


def test_colour_alone_does_not_name_a_class(scenes):
    """Gaussian classifiers of single pixels' colours, fitted to these very scenes, stay far below 50%."""
    colors = np.concatenate([image.reshape(-1, 3) for image, _ in scenes]).astype(float)
    labels = np.concatenate([label.ravel() for _, label in scenes])
    colors, labels = colors[labels != IGNORED], labels[labels != IGNORED]
    scores = []
    for k in range(19):
        own = colors[labels == k]
        precision = np.linalg.inv(np.cov(own.T))
        away = colors - own.mean(0)
        distance = np.einsum("pi,ij,pj->p", away, precision, away)
        scores.append(np.log(len(own)) + 0.5 * np.linalg.slogdet(precision)[1] - 0.5 * distance)
    guess = np.argmax(scores, axis=0)
    hits = [np.sum((guess == k) & (labels == k)) for k in range(19)]
    either = [np.sum((guess == k) | (labels == k)) for k in range(19)]
    assert np.mean(np.divide(hits, either)) < 0.2


def test_projection_is_the_pinhole_camera_and_rays_invert_it():
    view = camera()
    rotation = np.array([view.right, view.down, view.ahead])
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    points = np.random.default_rng(0).uniform([-5, 0, 4], [5, 6, 40], (20, 3))
    x, y, z = rotation @ (points - view.position).T
    expected = np.stack([100 + 150 * x / z, 45 + 150 * y / z], -1)
    np.testing.assert_allclose(view.project(map(tuple, points)), expected, rtol=1e-12)

    rays = view.rays()
    assert rays.shape == (100, 200, 3)
    hit = np.array(view.position) + 12 * rays[30, 150].astype(float)
    np.testing.assert_allclose(view.project([tuple(hit)]), [(150.5, 30.5)], atol=1e-3)


def test_a_polygon_is_cut_at_the_camera():
    view = camera(yaw=0.0, pitch=0.0, roll=0.0)
    behind = [(0.0, 0.0, -5.0), (0.0, 2.0, -5.0), (1.0, 2.0, -3.0)]
    assert view.project(behind) == []
    through = view.project([(1.5, 0.0, -5.0), (1.5, 0.0, 20.0), (3.0, 0.0, 20.0)])
    assert len(through) == 4 and np.isfinite(through).all()


def test_later_faces_cover_earlier_ones_and_backs_are_culled():
    view = camera(yaw=0.0, pitch=0.0, roll=0.0, bend=0.0)
    canvas = Canvas(view, np.full((100, 200), Label.SKY, np.uint8))
    near, far = Frame(view, 8, 1.5), Frame(view, 20, 1.5)
    square = [(-1.0, 0.0), (-1.0, 3.0), (1.0, 3.0), (1.0, 0.0)]
    canvas.cut_out(far, square, Label.CAR, (1, 0, 0))
    canvas.cut_out(near, square[:2] + [(0.0, 3.0), (0.0, 0.0)], Label.FENCE, None)
    assert not canvas.face(far.flat(square[::-1]), Label.BUS, (0, 0, 1), cull=True)
    labels, faces = np.array(canvas.labels), np.array(canvas.faces)
    assert set(np.unique(labels)) == {Label.SKY, Label.CAR, Label.FENCE}
    assert labels[45, 97] == Label.FENCE and faces[45, 97] == 1, "a fence is seen through"
    assert labels[45, 103] == Label.CAR and labels[45, 10] == Label.SKY
    assert len(canvas.table().color) == 2


def test_painter_draws_what_is_hidden_first():
    def item(name, along, across):
        return plan.Item(along, across, name)

    items = [
        item("near sign", (6, 6.2), (4, 4.2)), item("house", (2, 30), (8, 20)),
        item("bus", (8, 20), (-1, 1.5)), item("car behind", (21, 25), (-1, 1)),
        item("left house", (0, 40), (-20, -8)), item("walker", (10, 10.5), (5, 5.5)),
    ]  # fmt: skip
    for seed in range(5):
        shuffled = [items[i] for i in np.random.default_rng(seed).permutation(len(items))]
        order = [it.draw for it in plan.far_to_near(shuffled, eye=0.5)]
        assert sorted(order) == sorted(it.draw for it in items)
        for hidden, hiding in (
            ("house", "walker"), ("house", "near sign"), ("walker", "near sign"), ("car behind", "bus"),
        ):  # fmt: skip
            assert order.index(hidden) < order.index(hiding)


@pytest.mark.parametrize(
    "arguments, message",
    [((-1, SMALL), "seed must be 0 or more, not -1"), ((0, (8, 64)), "at least 16 × 16, not 8 × 64")],
)
def test_scenes_that_cannot_be_drawn(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_scene(*arguments)


def test_layout_of_the_folder(written):
    files = contents(written)
    expected = [
        f"{kind}/{split}/{i:05d}.png"
        for kind in ("images", "labels")
        for split, count in (("train", 3), ("val", 2))
        for i in range(count)
    ]
    assert set(files) == {*expected, "classes.csv", "streets.json"}
    image, label = draw_scene(write.scene_seed(5, "val", 1), SMALL)
    with Image.open(written / "images/val/00001.png") as file:
        assert file.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(file), image)
    with Image.open(written / "labels/val/00001.png") as file:
        assert file.mode == "L"
        np.testing.assert_array_equal(np.asarray(file), label)
    assert json.loads(files["streets.json"])["seed"] == 5


def test_classes_file(written):
    with (written / "classes.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "red", "green", "blue"] and len(rows) == 20
    assert [(name, [int(level) for level in color]) for name, *color in rows[1:]] == CLASSES


def test_other_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the classes of the scenes are"):
        write_streets(tmp_path / "none", 1, 1, SMALL, classes=CLASSES[::-1])
    assert list(tmp_path.iterdir()) == []


def test_the_room_knows_nothing_of_data_sets(pytestconfig):
    code = (
        "import sys, dpanet_jax.streets; print([n for n in sys.modules if n.startswith('dpanet_jax.data')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_no_two_scenes_share_a_seed(written):
    seeds = {
        write.scene_seed(seed, split, index)
        for seed in range(4)
        for split in ("train", "val")
        for index in (*range(50), 2**32 - 1)
    }
    assert len(seeds) == 4 * 2 * 51
    pictures = [data for name, data in contents(written).items() if name.startswith("images")]
    assert len(set(pictures)) == len(pictures)


def test_files_do_not_depend_on_the_number_of_processes(written, tmp_path):
    write_streets(tmp_path / "two", 3, 2, SMALL, seed=5, processes=2)
    assert contents(tmp_path / "two") == contents(written)
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_a_finished_folder_is_kept(written, monkeypatch):
    before = contents(written)
    monkeypatch.setattr(write, "draw_scene", lambda *_: pytest.fail("drawn again"))
    write_streets(written, 3, 2, list(SMALL), seed=5)
    assert contents(written) == before


@pytest.mark.parametrize(
    "changed, name",
    [({"num_train": 4}, "num_train"), ({"seed": 6}, "seed"), ({"size": (64, 32)}, "size")],
)
def test_a_folder_with_other_parameters_is_refused(written, changed, name):
    before = contents(written)
    options = {"num_train": 3, "num_val": 2, "size": SMALL, "seed": 5} | changed
    with pytest.raises(DPANetError, match=f"streets with this {name}: remove it, or name another") as error:
        write_streets(written, **options)
    assert str(written) in str(error.value)
    assert contents(written) == before


@pytest.mark.parametrize("record", [None, "not json", "[]"])
def test_a_folder_with_something_else_is_refused(tmp_path, record):
    (tmp_path / "letter.txt").write_text("mine")
    if record is not None:
        (tmp_path / "streets.json").write_text(record)
    with pytest.raises(DPANetError, match="does not hold streets: remove it"):
        write_streets(tmp_path, 1, 1, SMALL)
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    write_streets(tmp_path / "empty", 1, 1, SMALL)
    assert (tmp_path / "empty" / "labels/val/00000.png").is_file()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, failure):
    drawn = []

    def draw(seed, size, **how):
        drawn.append(seed)
        if len(drawn) == 3:
            raise failure("stop")
        return scene.draw_scene(seed, size, **how)

    monkeypatch.setattr(write, "draw_scene", draw)
    with pytest.raises(failure):
        write_streets(tmp_path / "cut", 3, 1, SMALL, processes=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_train": 0}, "num_train and num_val must be at least 1, not 0 and 2"),
        ({"seed": -3}, "seed must be 0 or more, not -3"),
        ({"size": (4, 4)}, "size must be at least 16"),
    ],
)
def test_parameters_that_make_no_data_set(tmp_path, options, message):
    with pytest.raises(DPANetError, match=message):
        write_streets(tmp_path / "none", **({"num_train": 2, "num_val": 2, "size": SMALL} | options))
    assert list(tmp_path.iterdir()) == []
