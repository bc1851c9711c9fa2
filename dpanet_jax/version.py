"""The version, and the commit of a checkout. Packaging reads this file without importing it."""

import functools
import os
import subprocess
from pathlib import Path

__version__ = "0.2.0"

_PACKAGE = Path(__file__).resolve().parent
_CHANGED = "+changes"
_SECONDS = 5  # that git may take to answer


def provenance() -> dict[str, str | None]:
    """{"version": …, "commit": …}: which code this is.

    The commit is the 40 digits of the checkout that the package is imported from, followed by `+changes`
    where the package's tracked files differ from it. It is None for an installed wheel, and where git is
    absent or cannot tell. Never raises.
    """
    return {"version": __version__, "commit": _commit(_PACKAGE)}


def version_line() -> str:
    """`dpanet_jax 0.2.0`, and in a checkout its commit: `dpanet_jax 0.2.0 (commit abc1234)`."""
    commit = _commit(_PACKAGE)
    if commit is None:
        return f"dpanet_jax {__version__}"
    digits, changed, _ = commit.partition(_CHANGED)
    return f"dpanet_jax {__version__} (commit {digits[:7]}{changed})"


@functools.cache
def _commit(package: Path) -> str | None:
    """The commit of the repository that tracks `package`, or None."""
    # A repository may merely contain the folder that the package is installed in: it does not track it.
    tracked = _git(package, "ls-files", "--error-unmatch", "--", "version.py")
    if tracked is None or tracked.returncode:
        return None
    head = _git(package, "rev-parse", "--verify", "HEAD")
    if head is None or head.returncode:
        return None
    differences = _git(package, "diff", "--quiet", "--no-ext-diff", "HEAD", "--", ".")
    if differences is None or differences.returncode not in (0, 1):
        return None
    return head.stdout.strip() + (_CHANGED if differences.returncode else "")


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """What git says in `folder`; None where it cannot be run or takes too long."""
    # GIT_DIR and its like, set while a hook runs, would name another repository than the folder's own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
