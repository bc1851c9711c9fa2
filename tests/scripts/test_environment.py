"""scripts/environment.sh: an active environment is taken where it has what is needed, and only there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def environment_has(*extras, requirements=None, tmp_path=None):
    folder = ROOT
    if requirements is not None:
        folder = tmp_path
        shutil.copy(ROOT / "pyproject.toml", folder)
        (folder / "requirements.txt").write_text(requirements)
    script = (
        f'source "{ROOT}/scripts/environment.sh"; environment_has "{sys.executable}" - {" ".join(extras)}'
    )
    return subprocess.run(["bash", "-c", script], cwd=folder, env=dict(os.environ)).returncode == 0


def test_what_runs_these_tests_has_what_running_needs():
    assert environment_has()
    assert environment_has("test")


@pytest.mark.parametrize("line", ["no-such-package>=1", "numpy>=1000", "numpy<1"])
def test_a_package_that_is_absent_or_out_of_bounds(line, tmp_path):
    assert not environment_has(requirements=f"# comment\npillow\n{line}\n", tmp_path=tmp_path)


def test_shell_scripts_parse():
    for name in ("scripts/demo", "scripts/test", "scripts/environment.sh", ".ci/run"):
        subprocess.run(["bash", "-n", ROOT / name], check=True)
