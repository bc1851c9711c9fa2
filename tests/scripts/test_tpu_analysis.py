"""scripts/tpu_analysis.py on a program that is there: its numbers, and its word for one too large."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dpanet_jax.analysis.chips import TPUS
from dpanet_jax.analysis.cost import Lowered, TooLarge
from dpanet_jax.analysis.program import Array
from dpanet_jax.analysis.traffic import Use, Work
from dpanet_jax.errors import UsageError

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

# Three classes at the resolution of two images of 32²: written once, read once, 3 rows padded to 8.
PROGRAM = """\
HloModule jit_train_step

ENTRY %main (x: f32[2,3,32,32]) -> f32[2,32,3,128] {
  %x = f32[2,32,3,32]{3,2,1,0:T(8,128)} parameter(0)
  ROOT %y = f32[2,32,3,32]{3,2,1,0:T(8,128)} exponential(%x), metadata={op_name="jit(train_step)/jvp()/exp"}
}
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    # The script sets these when it is imported; so they are put back.
    for name in (
        "JAX_PLATFORMS",
        "JAX_ENABLE_COMPILATION_CACHE",
        "ALLOW_MULTIPLE_LIBTPU_LOAD",
        "TPU_SKIP_MDS_QUERY",
    ):
        monkeypatch.setenv(name, "")
    return importlib.import_module("tpu_analysis")


def test_a_program_from_a_file(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, output = tmp_path / "step.txt", tmp_path / "analysis.json"
    program.write_text(PROGRAM)
    script.main(
        [
            "--topology=local", "--network=fcn", "--backbone=resnet18", "--size=32", "--images=2",
            "--num_classes=3", f"--program={program}", f"--output={output}",
        ]
    )  # fmt: skip
    found = json.loads(output.read_text())
    padded = 2 * 32 * 8 * 128 * 4
    assert found["total"]["traffic"] == 2 * padded
    assert [(each["cause"], each["padding"]) for each in found["causes"]] == [
        ("image, loss and resizes", 2 * (padded - 2 * 32 * 3 * 32 * 4))
    ]
    assert found["full_resolution"]["written in main memory"] == {"times": 1, "bytes": padded}
    assert found["full_resolution"]["read in main memory"] == {"times": 1, "bytes": padded}
    assert [(each["shape"], each["order"]) for each in found["padding"]] == [([2, 32, 3, 32], [0, 1, 2, 3])]
    assert found["bounds"] is None  # No rates are published of a CPU.
    assert found["least"]["products"] > 11_000_000 * 2  # the parameters of a ResNet-18, read in bfloat16
    assert f"| all | 1 | {2 * padded / 1e9:.2f} |" in capsys.readouterr().out


def test_a_file_that_is_no_program(script: Any, tmp_path: Path) -> None:
    program = tmp_path / "step.txt"
    program.write_text("no program\n")
    with pytest.raises(SystemExit, match="tpu_analysis: the text has no ENTRY computation"):
        script.main(
            ["--topology=local", "--network=fcn", "--backbone=resnet18", "--size=32", f"--program={program}"]
        )


def test_paddings_and_what_is_at_full_resolution(script: Any) -> None:
    tiles = ((4, 8),)
    padded = Array("f32", (2, 3), (0, 1), tiles)  # 6 of 32 elements
    fast = Array("f32", (2, 3), (0, 1), tiles, space=1)
    whole = Array("f32", (8, 8), (0, 1), tiles)
    uses = (Use(padded, False, 2), Use(padded, True, 1), Use(whole, False, 100), Use(fast, True, 5))
    works = [Work("head", "name", "", uses, 0.0, 0)]
    assert script.paddings(works, 8) == [
        {"dtype": "f32", "shape": (2, 3), "order": (0, 1), "bytes": 3 * 128, "padding": 3 * (128 - 24)}
    ]
    found = script.full_resolution(works, script.parsed(["--images=1", "--size=1", "--num_classes=6"]))
    assert {name: (each["times"], each["bytes"]) for name, each in found.items()} == {
        "written in main memory": (1, 128),
        "read in main memory": (2, 2 * 128),
        "written in fast memory": (5, 5 * 128),
        "read in fast memory": (0, 0),
    }


def test_the_bounds_of_a_chip(script: Any) -> None:
    """Of 4 images: one instruction that computes for 2 s and moves for 1 s, one that moves for 3 s."""
    chip = TPUS["v5e"]
    rate, bandwidth = chip.flops["bfloat16"], int(chip.memory_bandwidth)

    def work(seconds: int, flops: float) -> Work:
        moved = Array("u8", (seconds * bandwidth,))
        return Work("head", "name", "", (Use(moved, False, 1),), flops, 0)

    arguments = script.parsed(["--images=4"])
    found = script.bounds([work(1, 2 * rate), work(3, 0.0)], 2 * bandwidth, chip, arguments)
    assert {name: (each["seconds"], each["images/s"]) for name, each in found.items()} == {
        "operations": (2, 2),
        "bytes": (4, 1),
        "least bytes": (2, 2),
        "each": (5, 0.8),
    }


def test_the_step_that_does_not_fit(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lowered, "compile", lambda self: TooLarge(20, 10))
    step = Lowered(None, None, None, {}, 0.0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--images=8: the step needs 20 bytes of the 10 that"):
        script.program_text(script.parsed([]), step)
