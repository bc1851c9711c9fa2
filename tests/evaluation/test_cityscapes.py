"""Cityscapes' figures against the authors' own evaluation, run on the same files, to what it prints."""

import pickle
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data.datasets.cityscapes import CITYSCAPES
from dpanet_jax.data.listing import DataError
from dpanet_jax.errors import UsageError
from dpanet_jax.evaluation import cityscapes
from dpanet_jax.evaluation.metrics import ConfusionMatrix

NAMES = ["frankfurt/frankfurt_000000_000294", "lindau/lindau_000001_000019", "munster/munster_000002_000019"]


def see(files, instances, matrix):
    for index, (name, raw) in enumerate(files.items()):
        label, prediction = (CITYSCAPES.id_map[ids] for ids in raw)
        matrix.update(label, prediction)
        instances.see(name, index, label, prediction)


@pytest.mark.parametrize(
    "classes", [tuple(range(34)), (0, 7, 8, 24, 26, 29, 31, 33), (4, 7, 11, 23), (7, 30)]
)
def test_against_the_authors_evaluation(tmp_path, classes, write_cityscapes, official_evaluation):
    """With all classes, with some, and without instances that count, though some are predicted."""
    files = write_cityscapes(tmp_path, NAMES, classes)
    printed, written = official_evaluation(tmp_path / "gtFine", tmp_path / "results")
    matrix, instances = (
        ConfusionMatrix(19),
        cityscapes.Instances(cityscapes.find_instances(tmp_path / "gtFine", files)),
    )
    see(files, instances, matrix)
    figures = cityscapes.compute(matrix, instances)
    scores = figures.classes | figures.categories
    scores["mean of classes"] = cityscapes.mean(figures.classes)
    scores["mean of categories"] = cityscapes.mean(figures.categories)
    assert {name: tuple(f"{value:.3f}" for value in score) for name, score in scores.items()} == printed
    # What it writes has all digits.
    for kind, of in (("class", figures.classes), ("category", figures.categories)):
        for name, score in of.items():
            expected = written[f"{kind}Scores"][name], written[f"{kind}InstScores"][name]
            np.testing.assert_allclose(tuple(score), expected, rtol=1e-12)
    if len(classes) == 34:
        assert 0.3 < scores["mean of classes"].iou < 0.9 and 0.3 < scores["vehicle"].instance_iou < 0.95
        assert scores["car"].iou != scores["car"].instance_iou


def test_hosts_add_up_and_an_archive_serves(tmp_path, write_cityscapes):
    """What was seen goes from host to host by pickle, though the files are in an archive."""
    files = write_cityscapes(tmp_path, NAMES)
    with zipfile.ZipFile(tmp_path / "gtFine_trainvaltest.zip", "w") as packed:
        for path in sorted((tmp_path / "gtFine").rglob("*.png")):
            packed.write(path, path.relative_to(tmp_path))
    found = cityscapes.find_instances(tmp_path / "gtFine_trainvaltest.zip", files)
    alone, matrix = cityscapes.Instances(found), ConfusionMatrix(19)
    see(files, alone, matrix)
    first, second = cityscapes.Instances(found), cityscapes.Instances(found)
    see({name: files[name] for name in NAMES[:1]}, first, ConfusionMatrix(19))
    see({name: files[name] for name in NAMES[1:]}, second, ConfusionMatrix(19))
    second.merge(pickle.loads(pickle.dumps(first)))
    assert cityscapes.compute(matrix, second) == cityscapes.compute(matrix, alone)


def test_without_instances_the_report_has_no_figures_of_them(capsys):
    """The table and the report say the same; what has no pixel is a dash, and null."""
    counts = np.zeros((19, 19), np.int64)
    counts[0, 0], counts[0, 1], counts[1, 1], counts[13, 14] = 4, 2, 2, 5
    figures = cityscapes.compute(ConfusionMatrix(19, counts))
    cityscapes.print_table(figures)
    said = capsys.readouterr().out
    assert re.search(r"flat +│ +100.00 ", said) and re.search(r"vehicle +│ +100.00 ", said)
    assert re.search(r"sky +│ +– ", said) and "iIoU" not in said
    written = cityscapes.as_json(figures)
    assert written["categories"][4] == {"name": "sky", "iou": None}
    assert (
        written["classes"][0] == {"name": "road", "iou": 4 / 6} and "mean_class_instance_iou" not in written
    )
    assert (
        written["mean_class_iou"] == pytest.approx((4 / 6 + 2 / 4) / 4) and written["mean_category_iou"] == 1
    )


def test_files_that_are_not_there_are_named_before_any_work(tmp_path, write_cityscapes):
    files = write_cityscapes(tmp_path, NAMES)
    with pytest.raises(UsageError, match="nowhere: no such folder or archive"):
        cityscapes.find_instances(tmp_path / "nowhere", files)
    with pytest.raises(UsageError, match=r"1 of 4 images have no file .*aachen_1_2_gtFine_instanceIds.png"):
        cityscapes.find_instances(tmp_path, [*files, "aachen/aachen_1_2"])
    path = next((tmp_path / "gtFine").rglob("lindau*_instanceIds.png"))
    coarse = path.with_name(path.name.replace("Fine", "Coarse"))
    coarse.write_bytes(b"")
    assert cityscapes.find_instances(tmp_path, files)[NAMES[1]] == path
    path.unlink()
    assert cityscapes.find_instances(tmp_path, files)[NAMES[1]] == coarse
    (tmp_path / coarse.name).write_bytes(b"")
    with pytest.raises(UsageError, match="have one name; remove one"):
        cityscapes.find_instances(tmp_path, files)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.full((4, 6), 7001), "would be an instance of road, which has none"),
        (np.full((4, 6), 34001), "34 is no id of a class"),
        (np.full((6, 4), 26001), r"shape \(6, 4\), where its image is \(4, 6\)"),
    ],
)
def test_a_file_that_is_no_file_of_instances_is_named(tmp_path, ids, words):
    path = tmp_path / "a_1_2_gtFine_instanceIds.png"
    Image.fromarray(ids.astype(np.uint16)).save(path)
    image = np.zeros((4, 6), np.uint8)
    with pytest.raises(DataError, match=f"{path.name}: .*{words}"):
        cityscapes.Instances({"a/a_1_2": path}).see("a/a_1_2", 0, image, image)
