"""Large pages: when a process starts again to get them, and as what."""

import os
import subprocess
import sys

import pytest

from dpanet_jax.huge_pages import asking

ASKED = "always [madvise] never"


def test_it_asks_where_linux_waits_to_be_asked():
    assert asking({"A": "1"}, ASKED, (2, 36)) == {"A": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    tuned = {"GLIBC_TUNABLES": "glibc.malloc.check=1"}
    assert asking(tuned, ASKED, (2, 36)) == {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize(
    ("environment", "policy", "glibc"),
    [
        ({"DPANET_HUGE_PAGES": "0"}, ASKED, (2, 36)),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, ASKED, (2, 36)),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, ASKED, (2, 36)),
        ({}, "[always] madvise never", (2, 36)),
        ({}, "always madvise [never]", (2, 36)),
        ({}, "", (2, 36)),
        ({}, ASKED, (2, 34)),
        ({}, ASKED, ()),
    ],
)
def test_it_does_not_elsewhere(environment, policy, glibc):
    assert asking(environment, policy, glibc) is None


CHILD = """
import os, sys
from dpanet_jax import huge_pages
huge_pages._policy = lambda: "always [madvise] never"
huge_pages._glibc = lambda: (2, 36)
print("before", flush=True)
huge_pages.start_again_with_them()
print(os.getpid(), os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(os, "execve"), reason="no execve here")
def test_the_process_starts_again_once_with_its_arguments():
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, "train", "--x=a b"],
        env={**environment, "DPANET_HUGE_PAGES": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = child.communicate(timeout=120)
    assert out.splitlines() == [
        "before",
        "before",
        f"{child.pid} glibc.malloc.hugetlb=1 ['train', '--x=a b']",
    ]
    assert child.returncode == 0
