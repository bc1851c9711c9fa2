"""A head of the user's own, through the command line, without touching the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parent.parent

MODULE = '''
"""A head of two convolutions on the second and the last stage, with an option and a loss term of its own."""

from typing import Annotated, ClassVar

import flax.linen as nn
import jax

from dpanet_jax.interop.names import register_head_names
from dpanet_jax.models import LossTerm, Numerics, register_head
from dpanet_jax.models.resize import resize_bilinear
from dpanet_jax.options import Option


class TwoStageHead(nn.Module):
    LOSS_TERMS: ClassVar[dict[str, LossTerm]] = {
        "fused": LossTerm("logits", 1.0),
        "fine": LossTerm("fine", 0.5),
    }

    num_classes: int
    numerics: Numerics = Numerics()
    inner: Annotated[int, Option("channels between the two convolutions", least=1)] = 16

    @nn.compact
    def __call__(self, stages: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        conv, norm = self.numerics.layers(train)
        fine = conv(self.inner, 1, name="reduce")(stages["c2"])
        fine = nn.relu(norm(name="norm")(fine))
        coarse = conv(self.inner, 1, name="coarse")(stages["c4"])
        joined = fine + resize_bilinear(coarse, fine.shape[1:3])
        outputs = {"logits": conv(self.num_classes, 1, use_bias=True, name="classify")(joined)}
        if train:
            outputs["fine"] = conv(self.num_classes, 1, use_bias=True, name="classify_fine")(fine)
        return outputs


register_head("two_stage", TwoStageHead)
register_head_names(
    "two_stage",
    {
        "reduce": "reduce",
        "norm": "norm",
        "coarse": "coarse",
        "classify": "classify",
        "classify_fine": "classify_fine",
    },
)
'''

CONFIG = """
import two_stage_head

from dpanet_jax.config import default_config


def get_config():
    config = default_config()
    config.imports = ("two_stage_head",)
    config.data.data_dir = {data_dir!r}
    config.data.crop_size = (64, 64)
    config.data.base_size = 128
    config.model.name = "two_stage"
    config.model.inner = 8
    config.model.backbone = "resnet18"
    config.model.width = 8
    config.model.auxiliary = False
    config.loss.fine = 0.25
    config.training.batch_size = 2
    config.training.steps = 2
    config.evaluation.batch_size = 2
    config.log_every_steps = 1
    return config
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "two_stage_head.py").write_text(MODULE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

    # `python -m` looks for modules in the folder that it is started in, as for any user's script.
    def run(*argv, folder=tmp_path):
        return subprocess.run(
            [sys.executable, "-m", "dpanet_jax", *argv],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
        )

    return run


def test_it_trains_evaluates_and_is_exported(run, streets_dir, tmp_path):
    (tmp_path / "mine.py").write_text(CONFIG.format(data_dir=str(streets_dir)))
    done = run("train", "--config=mine.py", "--workdir=run")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = lines[0]
    total = first["train/loss/fused"] + 0.25 * first["train/loss/fine"]
    assert first["train/loss"] == pytest.approx(total, rel=1e-5)

    done = run("evaluate", "--workdir=run")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "evaluation" / "val_whole.json").read_text())
    assert np.sum(report["confusion_matrix"]) > 0

    done = run("export-torch", "--workdir=run", "--output=mine.safetensors")
    assert done.returncode == 0, done.stderr
    arrays = load_file(tmp_path / "mine.safetensors")
    assert arrays["head.coarse.weight"].shape == (8, 64, 1, 1)
    assert {"head.classify_fine.bias", "head.norm.running_mean", "pretrained.conv1.weight"} <= arrays.keys()

    # A config that knows nothing of the head, which is named on the command line.
    plain = CONFIG.format(data_dir=str(streets_dir)).replace("import two_stage_head", "")
    dropped = ("config.imports", "config.model.name", "config.model.inner", "config.loss.fine")
    lines = [line for line in plain.splitlines() if not line.strip().startswith(dropped)]
    (tmp_path / "plain.py").write_text("\n".join(lines))
    own = ["--config.imports=('two_stage_head',)", "--config.model.name=two_stage"]
    done = run("train", "--config=plain.py", "--workdir=again", *own)
    assert done.returncode == 0, done.stderr
    assert run("evaluate", "--workdir=again").returncode == 0

    weights = f"--config.model.pretrained={tmp_path / 'mine.safetensors'}"
    done = run("train", "--config=mine.py", "--workdir=from_weights", weights)
    assert done.returncode == 0, done.stderr

    done = run("evaluate", f"--workdir={tmp_path / 'run'}", folder=ROOT)
    assert done.returncode == 2
    assert "config.imports: the module two_stage_head cannot be imported" in done.stderr


def test_a_head_that_others_could_not_load_is_refused(run, streets_dir, tmp_path):
    text = CONFIG.format(data_dir=str(streets_dir)).replace('    config.imports = ("two_stage_head",)\n', "")
    (tmp_path / "mine.py").write_text(text)
    done = run("train", "--config=mine.py", "--workdir=run")
    assert done.returncode == 2
    assert "config.model.name=two_stage is registered by the module two_stage_head" in done.stderr
    assert not (tmp_path / "run").exists()
