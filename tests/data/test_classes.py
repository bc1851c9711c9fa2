import json

import numpy as np
import pytest

from dpanet_jax.data.classes import Classes, ClassesError, colorize, read_classes, read_label_colors
from dpanet_jax.data.datasets.camvid import CAMVID
from dpanet_jax.data.datasets.cityscapes import CITYSCAPES
from dpanet_jax.errors import DPANetError


def test_cityscapes_maps_its_19_raw_ids_in_order_and_ignores_the_rest():
    raw = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert CITYSCAPES.id_map[raw].tolist() == list(range(19))
    others = np.setdiff1d(np.arange(256), raw)
    assert (CITYSCAPES.id_map[others] == 255).all()
    assert np.flatnonzero(CITYSCAPES.known).tolist() == [*range(34), 255]
    assert CITYSCAPES.names[0] == "road" and CITYSCAPES.names[18] == "bicycle"
    assert CITYSCAPES.colors[13].tolist() == [0, 0, 142]


def test_camvid_ignores_void():
    assert len(CAMVID) == 11
    assert CAMVID.id_map[:12].tolist() == [*range(11), 255]
    assert CAMVID.known[11] and not CAMVID.known[12]


@pytest.mark.parametrize("classes", [CITYSCAPES, CAMVID])
def test_json_round_trip(classes):
    again = Classes.from_dict(json.loads(json.dumps(classes.to_dict())))
    assert again == classes and hash(again) == hash(classes)
    assert again != Classes.from_ids(["a"], [(1, 2, 3)])


def test_colorize_paints_ignored_pixels_black_and_refuses_unknown_ids():
    painted = colorize(np.array([[0, 255], [10, 3]], np.uint8), CAMVID)
    assert painted.dtype == np.uint8 and painted.shape == (2, 2, 3)
    assert painted[0, 1].tolist() == [0, 0, 0]
    assert painted[1, 1].tolist() == [128, 64, 128]
    with pytest.raises(ValueError, match="label 11 is not one of the 11 classes"):
        colorize(np.array([11], np.uint8), CAMVID)


def test_read_classes_takes_row_numbers_as_ids(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("name,red,green,blue\nroad, 1, 2, 3\n\nsky,4,5,6\n")
    classes = read_classes(path)
    assert classes.names == ("road", "sky")
    assert classes.colors.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert classes.id_map[:3].tolist() == [0, 1, 255]
    assert np.flatnonzero(classes.known).tolist() == [0, 1, 255]


def test_read_classes_takes_an_id_column_and_rows_to_ignore(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("id,name,red,green,blue\n0,ignore,0,0,0\n7,road,1,2,3\n9,sky,4,5,6\n")
    classes = read_classes(path)
    assert classes.names == ("road", "sky")
    assert classes.id_map[[0, 7, 8, 9]].tolist() == [255, 0, 255, 1]
    assert np.flatnonzero(classes.known).tolist() == [0, 7, 9, 255]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; the first line must be name,red,green,blue"),
        ("name,red,green\na,1,2\n", "line 1: the header lacks blue"),
        ("name,red,green,blue,alpha\n", "line 1: the header has unknown alpha"),
        ("name,red,green,blue\n", "no class below the header"),
        ("name,red,green,blue\na,1,2\n", "line 2: 3 values, the header has 4"),
        ("name,red,green,blue\na,1,2,3\nb,1,256,3\n", "line 3: green must be .* not '256'"),
        ("name,red,green,blue\na,1,2,-3\n", "line 2: blue must be a whole number"),
        ("name,red,green,blue\na,1,2,3\na,1,2,3\n", "line 3: the class 'a' is given twice"),
        ("name,red,green,blue\n,1,2,3\n", "line 2: a class needs a name"),
        ("name,red,green,blue,id\na,1,2,3,4\nb,1,2,3,4\n", "line 3: id 4 is given twice"),
        ("name,red,green,blue\nCar,1,2,3\ncar,4,5,6\n", "line 3: the class 'car' .* line 2 as 'Car'"),
        (
            "name,red,green,blue\nCafe\u0301,1,2,3\nCaf\u00e9,4,5,6\n",
            "line 3: the class 'Caf\u00e9' is given",
        ),
        ("name;red;green;blue\na;1;2;3\n", "line 1: .*semicolons separate its values, where commas must"),
        ("name\tred\tgreen\tblue\na\t1\t2\t3\n", "line 1: .*tabs separate its values"),
        ("name,red,green,blue\na;1;2;3\n", "line 2: 1 values, .*semicolons separate"),
        (",name,red,green,blue\n0,a,1,2,3\n", r"has unknown \(a column without a name\)"),
        ("name,red,green,blue\na\0b,1,2,3\n", "line 2: a class needs a name, not zeros"),
        (
            "name,red,green,blue\n" + "".join(f"{i},1,2,3\n" for i in range(256)),
            "256 classes, of at most 255",
        ),
        ("name,red,r,green,blue\na,1,1,2,3\n", "line 1: the header has a column twice"),
        ("name,red,green,blue\nroad,1,2,1e2\n", "line 2: blue must be a whole number"),
    ],
)
def test_read_classes_names_the_file_and_line(tmp_path, text, message):
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(ClassesError, match=message) as error:
        read_classes(path)
    assert isinstance(error.value, DPANetError)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_255_may_be_a_class(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("name,id,red,green,blue\nbackground,0,0,0,0\nobject,255,255,255,255\n")
    classes = read_classes(path)
    assert classes.id_map[[0, 1, 255]].tolist() == [0, 255, 1]
    assert np.flatnonzero(classes.known).tolist() == [0, 255]
    assert classes.raw_ids.tolist() == [0, 255]


def test_raw_ids_are_the_label_files_own():
    published = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert CITYSCAPES.raw_ids.dtype == np.uint8 and CITYSCAPES.raw_ids.tolist() == published
    several = Classes(("a", "b"), [(0, 0, 0)] * 2, np.isin(np.arange(256), [3, 9]), np.ones(256, bool))
    assert several.raw_ids.tolist() == [0, 3]
    none = Classes(("a", "b"), [(0, 0, 0)] * 2, np.zeros(256), np.ones(256, bool))
    with pytest.raises(ClassesError, match="no id of the label files means b"):
        _ = none.raw_ids


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_classes_files_of_any_editor(tmp_path, start, end):
    path = tmp_path / "classes.csv"
    text = start + end.join(["name,r,g,b", '"road, wet", 1, 2, 3', ",,,", "sky,4,5,6", ""])
    path.write_bytes(text.encode())
    classes = read_classes(path)
    assert classes.names == ("road, wet", "sky") and classes.colors.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_colours_of_labels_include_those_of_ignored_rows(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("name,id,red,green,blue\nignore,9,1,1,1\na,0,2,2,2\nb,3,2,2,2\nignore,10,4,4,4\n")
    assert read_label_colors(path) == {(1, 1, 1): [9], (2, 2, 2): [0, 3], (4, 4, 4): [10]}


def test_classes_files_that_are_none(tmp_path):
    with pytest.raises(ClassesError, match="a folder, where the classes file should be"):
        read_classes(tmp_path)
    path = tmp_path / "classes.csv"
    path.write_text("name,red,green,blue\na,1,2,3\n", encoding="utf-16")
    with pytest.raises(ClassesError, match="text in UTF-16; save it as CSV in UTF-8"):
        read_classes(path)
    path.write_bytes(b"name,red,green,blue\ncaf\xe9,1,2,3\n")
    with pytest.raises(ClassesError, match="not a CSV file in UTF-8"):
        read_classes(path)


def test_read_classes_without_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file") as error:
        read_classes(tmp_path / "classes.csv")
    assert isinstance(error.value, ClassesError)


@pytest.mark.parametrize(
    "stored", [{}, {"names": ["a"]}, {"known": [300]}, CAMVID.to_dict() | {"colors": []}]
)
def test_stored_classes_that_are_none(stored):
    with pytest.raises(ClassesError):
        Classes.from_dict(stored)
