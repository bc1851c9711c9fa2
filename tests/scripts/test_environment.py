"""scripts/environment.sh: an active environment is taken where it has what is needed, and only there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def environment_has(*extras: str, requirements: str | None = None, folder: Path = ROOT) -> bool:
    """Whether the environment of these tests has the extras, and `requirements` (none: the project's)."""
    if requirements is not None:
        shutil.copy(ROOT / "pyproject.toml", folder)
        (folder / "requirements.txt").write_text(requirements)
    script = (
        f'source "{ROOT}/scripts/environment.sh"; environment_has "{sys.executable}" - {" ".join(extras)}'
    )
    return subprocess.run(["bash", "-c", script], cwd=folder, env=dict(os.environ)).returncode == 0


def test_what_runs_these_tests_has_what_running_needs() -> None:
    assert environment_has()
    assert environment_has("test")


@pytest.mark.parametrize("line", ["no-such-package>=1", "numpy>=1000", "numpy<1"])
def test_a_package_that_is_absent_or_out_of_bounds(line: str, tmp_path: Path) -> None:
    assert not environment_has(requirements=f"# comment\npillow\n{line}\n", folder=tmp_path)


def test_a_package_for_another_python(tmp_path: Path) -> None:
    line = "no-such-package>=1; python_version < '3'"
    assert environment_has(requirements=f"pillow\n{line}\n", folder=tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose .venv holds a Python that only writes down what it is asked."""
    for name in ("pyproject.toml", "requirements.txt", "setup.py", "tests/constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$*" >> asked\n')
    python.chmod(0o755)
    return tmp_path


def ensure_environment(checkout: Path, *extras: str) -> list[str]:
    """What pip is asked to install on a machine without a GPU and without an active environment."""
    script = (
        f'source "{ROOT}/scripts/environment.sh"; gpu_extra() {{ :; }}; ensure_environment {" ".join(extras)}'
    )
    active = ("VIRTUAL_ENV", "CONDA_PREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in active}
    (checkout / "asked").unlink(missing_ok=True)
    subprocess.run(["bash", "-eu", "-c", script], cwd=checkout, env=environment, check=True)
    asked = checkout / "asked"
    lines = asked.read_text().splitlines() if asked.exists() else []
    return [line.rsplit(" ", 1)[1] for line in lines]


def test_only_what_is_missing_is_installed(checkout: Path) -> None:
    assert ensure_environment(checkout, "test", "docs") == [".[test,docs]"]
    assert ensure_environment(checkout, "docs") == []
    assert ensure_environment(checkout) == []
    assert ensure_environment(checkout, "test", "torch") == [".[test,torch]"]
    assert ensure_environment(checkout, "torch", "docs") == []


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml", "tests/constraints.txt"])
def test_what_has_changed_is_installed_again(name: str, checkout: Path) -> None:
    assert ensure_environment(checkout) == ["."]
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert ensure_environment(checkout) == ["."]


def test_shell_scripts_parse() -> None:
    launchers = ("launch.sh", "launch_gpus", "launch_slurm", "launch_tpu")
    for name in ("demo", "test", "wheel", "environment.sh", "../.ci/run", *launchers):
        subprocess.run(["bash", "-n", ROOT / "scripts" / name], check=True)
