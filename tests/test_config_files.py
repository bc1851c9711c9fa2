"""config_files.py: a configuration by its name, or by its path."""

from pathlib import Path

import pytest

from dpanet_jax import config_files
from dpanet_jax.config_files import config_names, find_config
from dpanet_jax.errors import UsageError

ROOT = Path(__file__).parents[1]


def test_every_file_of_configs_has_its_name() -> None:
    assert "demo" in config_names()
    for file in (ROOT / "configs").glob("*.py"):
        assert find_config(file.stem) == str(file)


def test_what_a_wheel_brings_goes_before_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("configs", "dpanet_jax/configs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "demo.py").touch()
    monkeypatch.setattr(config_files, "_PACKAGE", tmp_path / "dpanet_jax")
    assert find_config("demo") == str(tmp_path / "dpanet_jax" / "configs" / "demo.py")


@pytest.mark.parametrize("path", ["mine.py", "./mine.py", "folder/mine.py", "folder/mine", "~/mine.py"])
def test_a_path_stays_a_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / path.removeprefix("~/")
    with pytest.raises(UsageError, match="there is no such file"):
        find_config(path)
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert find_config(path) == str(file)
    assert find_config(f"{path}:small") == f"{file}:small"


def test_a_name_keeps_its_argument() -> None:
    assert find_config("demo:a/b") == f"{ROOT / 'configs' / 'demo.py'}:a/b"


def test_a_name_is_no_file_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").touch()
    assert find_config("demo") == str(ROOT / "configs" / "demo.py")


@pytest.mark.parametrize("name", ["dmeo", "", "demo.txt", "__init__"])
def test_an_unknown_name_lists_those_there_are(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_config(name)
    assert f"--config={name}: " in str(caught.value)
    assert ", ".join(config_names()) in str(caught.value)
    assert ("did you mean demo?" in str(caught.value)) == (name in ("dmeo", "demo.txt"))


def test_an_address_is_refused() -> None:
    with pytest.raises(UsageError, match="only local paths"):
        find_config("gs://bucket/mine.py")
