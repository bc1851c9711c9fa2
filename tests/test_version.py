"""version.py: which code this is, in a checkout and out of one."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dpanet_jax import version

SOURCE = Path(version.__file__)


def git(folder: Path, *arguments: str) -> str:
    identity = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for who in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{who}_NAME": "nobody", f"GIT_{who}_EMAIL": "nobody@example.org"}
    words = ["git", "-C", str(folder), *arguments]
    return subprocess.run(words, env=os.environ | identity, check=True, capture_output=True, text=True).stdout


def repository(folder: Path) -> str:
    """Makes a repository of what is in `folder`, all of it in one commit; returns the commit."""
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "all")
    return git(folder, "rev-parse", "HEAD").strip()


def package(folder: Path) -> Path:
    """A package of two files in `folder`."""
    folder.mkdir(parents=True)
    shutil.copy(SOURCE, folder)
    (folder / "model.py").write_text("WIDTH = 64\n")
    return folder


def imported(folder: Path) -> ModuleType:
    """version.py as it is imported from `folder`, with nothing remembered."""
    spec = importlib.util.spec_from_file_location("version_of_a_copy", folder / "version.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def no_hook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)


def test_a_checkout_tells_its_commit(tmp_path: Path) -> None:
    copy = package(tmp_path / "dpanet_jax")
    commit = repository(tmp_path)
    module = imported(copy)
    assert module.provenance() == {"version": version.__version__, "commit": commit}
    assert module.version_line() == f"dpanet_jax {version.__version__} (commit {commit[:7]})"


def test_only_a_change_of_the_package_is_marked(tmp_path: Path) -> None:
    copy = package(tmp_path / "dpanet_jax")
    (tmp_path / "README.md").write_text("words\n")
    commit = repository(tmp_path)
    (tmp_path / "README.md").write_text("other words\n")
    (copy / "notes.txt").write_text("not tracked\n")
    os.utime(copy / "model.py", (0, 0))  # another time, the same content
    assert imported(copy).provenance()["commit"] == commit
    (copy / "model.py").write_text("WIDTH = 65\n")
    module = imported(copy)
    assert module.provenance()["commit"] == f"{commit}+changes"
    assert module.version_line() == f"dpanet_jax {version.__version__} (commit {commit[:7]}+changes)"


def test_a_change_that_is_staged_is_marked(tmp_path: Path) -> None:
    copy = package(tmp_path / "dpanet_jax")
    commit = repository(tmp_path)
    (copy / "model.py").unlink()
    git(tmp_path, "add", "--all")
    assert imported(copy).provenance()["commit"] == f"{commit}+changes"


@pytest.mark.parametrize("ignored", [True, False])
def test_a_repository_that_merely_contains_the_installed_package(tmp_path: Path, ignored: bool) -> None:
    (tmp_path / "analysis.py").write_text("import dpanet_jax\n")
    (tmp_path / ".gitignore").write_text(".venv/\n" if ignored else "\n")
    repository(tmp_path)
    module = imported(package(tmp_path / ".venv" / "site-packages" / "dpanet_jax"))
    assert module.provenance() == {"version": version.__version__, "commit": None}
    assert module.version_line() == f"dpanet_jax {version.__version__}"


def test_no_repository_and_one_without_commits(tmp_path: Path) -> None:
    copy = package(tmp_path / "dpanet_jax")
    assert imported(copy).provenance()["commit"] is None
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    assert imported(copy).provenance()["commit"] is None


def test_inside_a_hook_of_another_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = package(tmp_path / "ours" / "dpanet_jax")
    commit = repository(tmp_path / "ours")
    package(tmp_path / "other" / "dpanet_jax")
    repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    assert imported(copy).provenance()["commit"] == commit


@pytest.mark.parametrize("program", ["", "exit 3", "exec sleep 60"])
def test_git_absent_broken_or_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    copy = package(tmp_path / "dpanet_jax")
    repository(tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    if program:
        (programs / "git").write_text(f"#!/bin/sh\n{program}\n")
        (programs / "git").chmod(0o755)
    sleep = shutil.which("sleep")
    assert sleep is not None
    (programs / "sleep").symlink_to(sleep)
    monkeypatch.setenv("PATH", str(programs))
    module = imported(copy)
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    assert module.provenance() == {"version": version.__version__, "commit": None}


def test_git_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = package(tmp_path / "dpanet_jax")
    repository(tmp_path)
    module = imported(copy)
    first = module.provenance()
    monkeypatch.setattr(module, "_git", None)
    first["version"] = "somebody else's"
    assert module.provenance()["version"] == version.__version__


def test_reading_the_version_imports_no_jax() -> None:
    lines = f"import runpy, sys; runpy.run_path({str(SOURCE)!r}); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lines]).returncode == 0
