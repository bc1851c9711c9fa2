"""The cores that a process may use: its own, and its container's limit."""

import os
from pathlib import Path

import pytest

from dpanet_jax import cores


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 3),
    ],
)
def test_a_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    for name in ("process_cpu_count", "cpu_count"):
        monkeypatch.setattr(os, name, lambda: 64, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert cores.usable() == (64 if limit is None else int(limit))


def test_part_of_a_core_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("20000 100000")
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    assert cores.usable() == 1


@pytest.mark.parametrize(("usable", "readers"), [(1, 1), (6, 6), (64, 8)])
def test_readers_are_one_a_core_and_at_most_eight(
    monkeypatch: pytest.MonkeyPatch, usable: int, readers: int
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: usable)
    assert cores.readers() == readers
