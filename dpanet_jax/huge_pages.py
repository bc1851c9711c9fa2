"""Large pages of memory for a CPU's work: a step's arrays come and go, and each page costs a fault.

glibc asks Linux for them where its tunable says so, which it reads when a process starts
(https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html, glibc.malloc.hugetlb).
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "DPANET_HUGE_PAGES"
_TUNABLES = "GLIBC_TUNABLES"
_HUGE = "glibc.malloc.hugetlb=1"
# Linux's policy. Of "always" nothing need be asked, and of "never" nothing would come.
_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def start_again_with_them() -> None:
    """Replaces this process by the same command with the tunable, where Linux waits to be asked.

    The process keeps its id, its terminal and its open pipes. Nothing happens where the tunable is set
    already, to whatever value, where DPANET_HUGE_PAGES is 0, and where the C library is not glibc 2.35 or
    newer. To be called before anything is begun.
    """
    asked = environment()
    if asked is not None:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], asked)


def environment() -> dict[str, str] | None:
    """This process's environment with the tunable, or None where nothing would come of it."""
    return asking(os.environ, _policy(), _glibc())


def asking(variables: Mapping[str, str], policy: str, glibc: tuple[int, ...]) -> dict[str, str] | None:
    """`environment` of these variables. `policy` is the text of Linux's file, `glibc` its version."""
    tunables = variables.get(_TUNABLES, "")
    if (
        variables.get(VARIABLE) == "0"
        or "glibc.malloc.hugetlb" in tunables
        or "[madvise]" not in policy
        or glibc < (2, 35)
    ):
        return None
    return {**variables, _TUNABLES: ":".join(filter(None, [tunables, _HUGE]))}


def _policy() -> str:
    try:
        return _POLICY.read_text()
    except OSError:
        return ""


def _glibc() -> tuple[int, ...]:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(int(part) for part in version.split(".")) if name == "glibc" else ()
    except (AttributeError, OSError, ValueError):
        return ()  # Another system or C library.
