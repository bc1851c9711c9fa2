"""scripts/torture in its small form: a few kills, a full disk and some damaged inputs, without a fault."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_the_small_form_finds_no_fault(tmp_path: Path) -> None:
    output = tmp_path / "torture.json"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # The tests' programs are for eight devices.
    done = subprocess.run(
        [sys.executable, SCRIPTS / "torture", "--small", f"--output={output}"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads(output.read_text())
    assert figures["faults"] == 0
    assert figures["runs"]["killed"] >= 3 and figures["runs"]["full"] == 1
    assert figures["runs"]["runs that ended as the undisturbed one"] >= 1
    assert sum(sum(kind.values()) for kind in figures["damaged"]["kinds"].values()) == 60
    assert not list(tmp_path.glob("torture.*/")), "nothing is left"


def test_a_fault_is_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is damaged is refused, read, or a fault; a crash of the reader is a fault."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import torture_damage as damage

    def reader(error: Exception | None) -> None:
        def read(fixtures: object, rng: random.Random, folder: Path) -> str:
            damage.record("a file")
            if error:
                raise error
            return "read"

        monkeypatch.setattr(damage, "KINDS", {"image": (1, read)})

    monkeypatch.setattr(damage, "Fixtures", lambda place, data: None)
    for number, (error, outcome) in enumerate(
        [(None, "read"), (OSError("no"), "refused"), (OSError(""), "fault"), (KeyError("x"), "fault")]
    ):
        reader(error)
        (found,) = damage.outcomes(tmp_path / str(number), tmp_path, 0, 1, seed=0)
        assert (found["outcome"], found["what"]) == (outcome, "a file")


def test_a_mutation_depends_on_its_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    import torture_damage as damage

    content, others = bytes(range(256)) * 9, [b"other"]
    made = [damage.damaged(content, others, random.Random(seed)) for seed in range(200)]
    assert made == [damage.damaged(content, others, random.Random(seed)) for seed in range(200)]
    assert {fault for _, fault in made} >= {"cut", "bits", "zeros", "noise", "swapped", "other"}
    assert sum(changed != content for changed, _ in made) > 190
