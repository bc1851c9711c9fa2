"""A prepared data set whose files were damaged since: one clear line, and how to mend it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dpanet_jax.data.listing import DataError
from dpanet_jax.data.prepare import prepare
from dpanet_jax.data.split import open_split


def records(folder: Path) -> Path:
    return next(folder.glob("*train*array_record*"))


def overwrite(path: Path, start: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(content)


def without_train(path: Path) -> None:
    metadata = json.loads(path.read_text())
    metadata["sizes"]["tr"] = metadata["sizes"].pop("train")
    path.write_text(json.dumps(metadata))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "records cut short": lambda f: records(f).write_bytes(records(f).read_bytes()[:-70_000]),
    "records overwritten": lambda f: overwrite(records(f), 300, b"\xaa" * 200),
    "records missing": lambda f: records(f).unlink(),
    "records of another kind": lambda f: records(f).write_bytes(b"<html></html>"),
    "features.json missing": lambda f: (f / "features.json").unlink(),
    "features.json cut short": lambda f: (f / "features.json").write_text('{"'),
    "features.json not of UTF-8": lambda f: (f / "features.json").write_bytes(b"\xff{}"),
    "dataset_info.json empty": lambda f: (f / "dataset_info.json").write_text(""),
    "metadata.json without a split": lambda f: without_train(f / "metadata.json"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_it_is_named_and_the_advice_works(
    kind: str, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    source = make_folder(tmp_path / "source")
    folder = prepare("folder", tmp_path / "data", source=source, quiet=True).path
    DAMAGE[kind](folder)
    with pytest.raises(DataError, match="--overwrite") as error:
        split = open_split("folder", "train", tmp_path / "data")
        for i in range(len(split)):
            split[i]
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    prepare("folder", tmp_path / "data", source=source, quiet=True, overwrite=True)
    split = open_split("folder", "train", tmp_path / "data")
    assert len(split) == len([split[i] for i in range(len(split))])
    shutil.rmtree(tmp_path / "data")
