"""The wheel and the source archive, built from a copy of this checkout, and the project's own files."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from dpanet_jax.version import __version__

ROOT = Path(__file__).parents[1]
# Of https://www.apache.org/licenses/LICENSE-2.0.txt
APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source archive."""
    copy = tmp_path_factory.mktemp("source") / "dpanet_jax"
    copy.mkdir()
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    for folder in ("dpanet_jax", "configs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("built")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    outcome = subprocess.run(words, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is unpacked in."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def metadata(installed: Path) -> Message:
    return Parser().parsestr(next(installed.glob("*.dist-info/METADATA")).read_text(encoding="utf-8"))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_wheel_holds_every_module_and_configuration_and_nothing_else(installed: Path) -> None:
    wanted = {f"dpanet_jax/configs/{file.name}": file for file in (ROOT / "configs").glob("*.py")}
    wanted |= {str(file.relative_to(ROOT)): file for file in (ROOT / "dpanet_jax").rglob("*.py")}
    wanted["dpanet_jax/py.typed"] = ROOT / "dpanet_jax" / "py.typed"
    found = {str(file.relative_to(installed)) for file in installed.rglob("*") if file.is_file()}
    assert {name for name in found if ".dist-info/" not in name} == wanted.keys()
    for name, file in wanted.items():
        assert (installed / name).read_bytes() == file.read_bytes(), name


def test_the_wheel_finds_its_own_configurations(installed: Path, tmp_path: Path) -> None:
    lines = (
        "import dpanet_jax.version as v, dpanet_jax.config_files as c\n"
        "print(v.__file__, c.find_config('demo'), *c.config_names(), v.version_line(), sep='\\n')"
    )
    environment = os.environ | {"PYTHONPATH": str(installed)}
    said = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert said == [
        str(installed / "dpanet_jax" / "version.py"),
        str(installed / "dpanet_jax" / "configs" / "demo.py"),
        *sorted(file.stem for file in (ROOT / "configs").glob("*.py")),
        f"dpanet_jax {__version__}",
    ]


def test_the_metadata_is_the_projects(metadata: Message) -> None:
    assert metadata["Name"] == "dpanet_jax"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "The dpanet_jax developers"
    needs = {Requirement(line) for line in metadata.get_all("Requires-Dist", [])}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = {Requirement(line) for line in lines if line and not line.startswith("#")}
    assert {need for need in needs if need.marker is None} == listed
    assert set(metadata.get_all("Provides-Extra", [])) == project()["optional-dependencies"].keys()


def test_the_metadata_names_no_address_of_the_project(metadata: Message) -> None:
    assert metadata["Home-page"] is None and metadata["Project-URL"] is None


def test_the_pythons_are_the_ones_that_the_scripts_take(metadata: Message) -> None:
    classifiers = metadata.get_all("Classifier", [])
    versions = [name.rsplit(" ", 1)[1] for name in classifiers if re.search(r":: 3\.\d+$", name)]
    assert versions == ["3.11", "3.12", "3.13"]
    script = (ROOT / "scripts" / "environment.sh").read_text()
    assert all(f"python{version}" in script for version in versions)
    assert metadata["Requires-Python"] == f">={versions[0]}"


def test_the_licence_is_apaches_word_for_word(installed: Path) -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(licence).hexdigest() == APACHE
    assert next(installed.glob("*.dist-info/licenses/LICENSE")).read_bytes() == licence


def test_the_source_archive_holds_the_projects_files(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = ["CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "configs/demo.py"]
    assert names >= {*files, "pyproject.toml", "requirements.txt", "setup.py", "dpanet_jax/py.typed"}


def test_the_change_log_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == __version__
    assert len(headings) == len(set(headings))


def test_the_citation_is_of_this_version_by_the_same_authors() -> None:
    said = citation()
    assert said["cff-version"] == "1.2.0" and said["message"]
    assert said["version"] == __version__
    assert said["title"] == project()["name"]
    assert said["license"] == project()["license"]
    assert said["authors"] == project()["authors"]


def test_the_citation_names_the_paper() -> None:
    (paper,) = citation()["references"]
    assert paper["title"].startswith("DPANet: Dual Pooling Attention Network")
    assert [author["family-names"] for author in paper["authors"]] == ["Sun", "Gao"]
    assert paper["url"] in (ROOT / "README.md").read_text(encoding="utf-8")
