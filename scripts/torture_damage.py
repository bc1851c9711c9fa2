"""Damaged inputs for scripts/torture: how they are made, who reads them, and what is right."""

import contextlib
import dataclasses
import json
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from PIL import Image

from dpanet_jax import checkpoint, models
from dpanet_jax import config as config_lib
from dpanet_jax.checkpoint import Checkpoints
from dpanet_jax.data import finder, images, pipeline
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.prepare import prepare
from dpanet_jax.data.split import open_split
from dpanet_jax.errors import DPANetError
from dpanet_jax.evaluation.trained import load_trained
from dpanet_jax.models import registry
from dpanet_jax.models.layers import Numerics
from dpanet_jax.models.segmenter import init_variables

BACKBONE = "two_convolutions"


class TwoConvolutions(nn.Module):
    """(B, H, W, 3) → {"c3", "c4"}, both (B, H/8, W/8, 8): a network that compiles in a second."""

    architecture: str = BACKBONE
    numerics: Numerics = Numerics()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        conv, norm = self.numerics.layers(train)
        c3 = nn.relu(norm(name="norm1")(conv(8, stride=4, name="conv1")(images)))
        c4 = nn.relu(norm(name="norm2")(conv(8, stride=2, name="conv2")(c3)))
        return {"c3": c3[:, ::2, ::2], "c4": c4}


registry.register_backbone(BACKBONE, TwoConvolutions)

OTHER_CONTENT = (
    b"",
    b"\n",
    b"<!DOCTYPE html><html><body>404</body></html>",
    b"{}",
    b"[1, 2, 3]",
    b"null",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    b"PK\x03\x04",
    b"\x80\x02}q\x00.",
)


def config_values(data: Path) -> dict[str, Any]:
    """{key: value} of a run of a tiny network."""
    return {
        "imports": (__name__,),
        "data.data_dir": str(data),
        "data.crop_size": (32, 32),
        "data.base_size": 48,
        "model.name": "fcn",
        "model.backbone": BACKBONE,
        "training.batch_size": 2,
        "training.epochs": 0,
        "evaluation.batch_size": 2,
        "log_every_steps": 1,
    }


def make_source(folder: Path, train: int, val: int) -> Path:
    """A folder of images of 40×48 and labels of two classes, as `prepare` takes it."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            label = (rng.random((10, 12)) < 0.4).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
            image = (rng.integers(0, 120, (40, 48, 3)) + 100 * label[..., None]).astype(np.uint8)
            for kind, picture in (("images", image), ("labels", label)):
                path = folder / kind / split / f"{i:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    (folder / "classes.csv").write_text("name,red,green,blue\nground,0,0,0\nobject,255,0,0\n")
    return folder


def with_lists(source: Path, folder: Path) -> Path:
    """The same images and labels in one folder each, with a list of names for each split."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for path in (source / kind).rglob("*.png"):
            shutil.copy(path, folder / kind / f"{path.parent.name}_{path.name}")
    shutil.copy(source / "classes.csv", folder)
    for split in ("train", "val"):
        names = sorted(path.stem for path in (folder / "images").glob(f"{split}_*"))
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    return folder


def damaged(content: bytes, others: list[bytes], rng: random.Random) -> tuple[bytes, str]:
    """The content after one fault, and which that was."""
    data, size = bytearray(content), len(content)
    start = rng.randrange(size) if size else 0
    end = min(size, start + int(2 ** rng.uniform(0, 10)))
    fault = rng.choice(("cut", "bits", "zeros", "noise", "insert", "delete", "append", "swapped", "other"))
    if fault == "cut":
        del data[start:]
    elif fault == "bits":
        for _ in range(rng.randint(1, 8) if size else 0):
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif fault == "zeros":
        data[start:end] = bytes(end - start)
    elif fault == "noise":
        data[start:end] = rng.randbytes(end - start)
    elif fault == "insert":
        data[start:start] = rng.randbytes(end - start)
    elif fault == "delete":
        del data[start:end]
    elif fault == "append":
        data += rng.randbytes(rng.randint(1, 64))
    elif fault == "swapped":
        data = bytearray(rng.choice(others))
    else:
        data = bytearray(rng.choice(OTHER_CONTENT))
    return bytes(data), fault


def damage_one(folder: Path, rng: random.Random, pattern: str = "*") -> tuple[Path, str]:
    """Damages one file of a folder: its content, its name, its kind, or that it is there."""
    files = sorted(path for path in folder.rglob(pattern) if path.is_file())
    path = rng.choice(files)
    fault = rng.choice(("content",) * 6 + ("missing", "renamed", "a folder", "a broken link"))
    if fault == "content":
        content, fault = damaged(path.read_bytes(), [rng.choice(files).read_bytes()], rng)
        path.write_bytes(content)
        return path, fault
    if fault == "renamed":
        path.rename(path.with_name(rng.choice(("x", ".x", path.name + "~", "ü.png", path.name.upper()))))
        return path, fault
    path.unlink()
    if fault == "a folder":
        path.mkdir()
    elif fault == "a broken link":
        path.symlink_to("nowhere")
    return path, fault


class Fixtures:
    """What is damaged, whole: made once."""

    def __init__(self, place: Path, data: Path) -> None:
        self.source = make_source(place / "source", train=3, val=2)
        self.listed = with_lists(self.source, place / "listed")
        self.data = data
        self.images = place / "images"
        self.images.mkdir()
        picture = Image.open(self.source / "images" / "train" / "000.png")
        for suffix, mode in (("png", "RGB"), ("jpg", "RGB"), ("jpeg", "L"), ("png", "P"), ("png", "RGBA")):
            # Only JPEG knows what progressive is; the others take no notice.
            picture.convert(mode).save(self.images / f"{mode}.{suffix}", progressive=mode == "L")
        self.workdir = place / "run"
        config = config_lib.default_config()
        config.data.dataset = "folder"
        config.update_from_flattened_dict(config_values(data))
        config.training.steps = 4
        from dpanet_jax.training.build import build
        from dpanet_jax.training.workdir import Workdir

        self.parts = build(config)
        self.state = self.parts.initial_state.to_host()
        folder = Workdir(self.workdir)
        folder.begin(self.parts.about["config"], self.parts.about["provenance"])
        with Checkpoints(self.workdir, keep_latest=3) as checkpoints:
            for step in (1, 2, 3):
                about = {**self.parts.about, "data": {**self.parts.batches.get_state(), "next_batch": step}}
                checkpoints.save(self.at(step), about)
                checkpoints.add_score(step, step / 10, self.parts.measured)
        with folder.open_log(3) as log:
            for step in (1, 2, 3):
                log.scalars(step, {"train/loss": 1.0 / step})
                log.scalars(step, {"val/mean_iou": step / 10})
        self.weights = place / "weights"
        self.weights.mkdir()
        self._write_weights()

    def at(self, step: int) -> Any:
        """The state of a step: every number is of the step."""
        state = dataclasses.replace(self.state, step=np.int32(step))
        return dataclasses.replace(
            state, params=jax.tree.map(lambda x: x + np.asarray(step, x.dtype), state.params)
        )

    def _write_weights(self) -> None:
        from dpanet_jax.interop.files import write_state_dict
        from dpanet_jax.interop.torch import to_state_dict

        model = models.build(2, name="fcn", backbone="resnet18", width=8)
        shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
        rng = np.random.default_rng(0)
        self.variables = jax.tree.map(lambda leaf: rng.random(leaf.shape).astype(np.float32), shapes)
        state_dict = to_state_dict(self.variables)
        write_state_dict(state_dict, self.weights / "w.safetensors")
        with contextlib.suppress(ImportError):
            import torch

            tensors = {name: torch.from_numpy(np.array(value)) for name, value in state_dict.items()}
            torch.save({"state_dict": tensors, "epoch": 3}, self.weights / "w.pth")


def image(fixtures: Fixtures, rng: random.Random, folder: Path) -> str:
    """An image that `predict` reads."""
    shutil.copytree(fixtures.images, folder / "in")
    path, fault = damage_one(folder / "in", rng)
    try:
        found = finder.find(folder / "in")
        for file in found.values():
            pixels = images.read_image(file)
            require(pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[-1] == 3, "no RGB image")
    finally:
        record(f"{path.name} {fault}")
    return "read"


def source(fixtures: Fixtures, rng: random.Random, folder: Path) -> str:
    """An image, a label, the class file or a list of a folder that is prepared."""
    lists = rng.random() < 0.5
    shutil.copytree(fixtures.listed if lists else fixtures.source, folder / "in")
    # The few files that are no pictures are worth as many cases as the many that are.
    path, fault = damage_one(folder / "in", rng, "*.txt" if lists and rng.random() < 0.5 else "*")
    record(f"{path.relative_to(folder / 'in')} {fault}")
    data = folder / "data"
    try:
        prepare("folder", data, source=folder / "in", quiet=True)
    except (DPANetError, OSError):
        left = [str(p.relative_to(data)) for p in data.rglob("*") if p.is_file() and p.stat().st_size]
        require(not left, f"half-written: {left}")
        raise
    read_all(data)
    return "read"


def records(fixtures: Fixtures, rng: random.Random, folder: Path) -> str:
    """A file of a prepared data set."""
    shutil.copytree(fixtures.data, folder / "data", ignore=shutil.ignore_patterns(".*"))
    path, fault = damage_one(folder / "data", rng)
    record(f"{path.name} {fault}")
    read_all(folder / "data")
    return "read"


def read_all(data: Path) -> None:
    for name in ("train", "val"):
        split = open_split("folder", name, data)
        for batch in pipeline.eval_batches(split, 2, num_threads=1):
            labels = batch["label"][batch["mask"]]
            require(((labels < len(split.classes.names)) | (labels == 255)).all(), "a label of no class")


def weights(fixtures: Fixtures, rng: random.Random, folder: Path) -> str:
    """A file of PyTorch's weights."""
    from dpanet_jax.interop import torch as torch_weights

    file = folder / rng.choice(sorted(fixtures.weights.iterdir())).name
    content = (fixtures.weights / file.name).read_bytes()
    others = [path.read_bytes() for path in fixtures.weights.iterdir()]
    content, fault = damaged(content, others, rng)
    record(f"{file.name} {fault}")
    file.write_bytes(content)
    require_same_shapes(torch_weights.load(file, fixtures.variables), fixtures.variables)
    return "read"


def checkpoint_(fixtures: Fixtures, rng: random.Random, folder: Path) -> str:
    """A file of the newest checkpoint: by `load`, and by a run that goes on."""
    shutil.copytree(fixtures.workdir, folder / "run")
    path, fault = damage_one(folder / "run" / "checkpoints" / "3", rng)
    record(f"{path.relative_to(folder / 'run')} {fault}")
    if rng.random() < 0.5:
        model = load_trained(folder / "run", "latest")
        require_equal(model.variables, fixtures.at(3).variables)
        return "read"
    told: list[str] = []
    with Checkpoints(folder / "run", 3, tell=told.append) as checkpoints:
        restored = checkpoints.restore(fixtures.state)
        require_equal(restored.variables, fixtures.at(restored.step).variables)
        require(restored.step == (2 if told else 3), f"step {restored.step}, told {told}")
        require(restored.about["data"]["next_batch"] == restored.step, "the data of another step")
        require(checkpoint.find(folder / "run").is_dir(), "no best checkpoint")
        require(all("\n" not in line for line in told), f"lines: {told}")
    if told:
        raise DPANetError(told[0])
    return "read"


def workdir(fixtures: Fixtures, rng: random.Random, folder: Path) -> str:
    """A file of a run's folder that is not a checkpoint's array: the run goes on all the same."""
    from dpanet_jax.training.workdir import Workdir

    shutil.copytree(fixtures.workdir, folder / "run")
    at = folder / "run"
    path = at / rng.choice(("config.json", "metrics.jsonl", "checkpoints/2/metrics/metrics"))
    content, fault = damaged(path.read_bytes(), [b"{}", b"3\n"], rng)
    path.write_bytes(content)
    record(f"{path.relative_to(at)} {fault}")
    config = fixtures.parts.about["config"]
    with Workdir(at) as run:
        require(run.config_of_run(config)[0] == config, "another config")
        with Checkpoints(at, 3, tell=lambda line: None) as checkpoints:
            require(checkpoints.restore(fixtures.state).step == 3, "another step")
            run.go_on(config, {})
            with run.open_log(3) as log:
                log.scalars(4, {"train/loss": float("nan")})
    lines = [json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()]
    require(lines[-1] == {"step": 4, "train/loss": None}, "the log is not what was written")
    stored = json.loads((at / "config.json").read_text())
    require({**stored, "provenance": 0} == {**config, "provenance": 0}, "config.json is not the run's")
    return "read"


KINDS: dict[str, tuple[int, Callable[[Fixtures, random.Random, Path], str]]] = {
    "image": (3, image),
    "source": (2, source),
    "records": (2, records),
    "weights": (2, weights),
    "checkpoint": (2, checkpoint_),
    "workdir": (1, workdir),
}
_what: list[str] = []


def record(what: str) -> None:
    """Notes which file of the case is damaged, and how."""
    _what.append(what)


def kind_of(case: int, seed: int) -> str:
    rng = random.Random(f"{seed} {case} kind")
    return rng.choices(list(KINDS), [share for share, _ in KINDS.values()])[0]


def outcomes(place: Path, data: Path, first: int, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """{"case", "kind", "what", "outcome": read, refused or fault, "words"} of the cases from `first` on."""
    place.mkdir()
    fixtures = Fixtures(place, data)
    for case in range(first, count):
        kind = kind_of(case, seed)
        folder = place / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _what.clear()
        words = ""
        try:
            outcome = KINDS[kind][1](fixtures, random.Random(f"{seed} {case}"), folder)
        except (DPANetError, OSError) as error:
            words = str(error)
            outcome = "refused" if is_clear(error) else "fault"
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome = "fault"
            words = f"{type(error).__name__}: {str(error)[:300]} ({where.filename}:{where.lineno})"
        yield {"case": case, "kind": kind, "what": "".join(_what), "outcome": outcome, "words": words[:400]}


def is_clear(error: Exception) -> bool:
    """Whether an error says something, in printable text, on one line; a DataError may list files."""
    lines = str(error).splitlines()
    one = len(lines) == 1 or (isinstance(error, DataError) and len(lines) > 1)
    return one and all(line.strip() and line.isprintable() for line in lines)


def require(holds: Any, words: str) -> None:
    if not holds:
        raise AssertionError(words)


def require_equal(ours: Any, theirs: Any) -> None:
    from dpanet_jax import checksums

    require(checksums.of_tree(ours) == checksums.of_tree(theirs), "other numbers than were saved")


def require_same_shapes(ours: Any, theirs: Any) -> None:
    from dpanet_jax import checksums

    require(checksums.structure_of_tree(ours) == checksums.structure_of_tree(theirs), "other shapes")
