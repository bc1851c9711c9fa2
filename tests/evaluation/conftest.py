"""A stand-in for a network, whose predictions are computed by hand; Cityscapes' files and own evaluation."""

import io
import re
from contextlib import redirect_stdout

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data.datasets.cityscapes import CITYSCAPES

# ImageNet's, RGB in [0, 1], as torchvision documents them.
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Threshold:
    """Stands in for a Segmenter: logits of a pixel from its own colour, at the image's resolution."""

    dtype = jnp.float32
    num_classes = 3
    align_corners = False
    variables = {"weight": np.float32(1.5)}

    def apply(self, variables, images, train):
        assert train is False
        red, green, _ = jnp.moveaxis(images, -1, 0)
        logits = jnp.stack([-green, green, variables["weight"] * (red - green)], axis=-1)
        return {"logits": logits}

    @staticmethod
    def logits_by_hand(image):
        red, green, _ = np.moveaxis((image / 255 - MEAN) / STD, -1, 0)
        return np.stack([-green, green, 1.5 * (red - green)], axis=-1)

    @classmethod
    def by_hand(cls, image):
        return np.argmax(cls.logits_by_hand(image), axis=-1)


@pytest.fixture(scope="session")
def threshold():
    return Threshold


@pytest.fixture
def write_cityscapes():
    """A function that writes gtFine/SPLIT and predictions (results/) below `root`, named as the authors do.

    It returns {name: raw ids of (label, prediction)} for the names, "CITY/CITY_SEQUENCE_FRAME".
    """

    def patches(rng, ids):
        return np.kron(rng.choice(ids, (8, 10)), np.ones((5, 7), int))

    def write(root, names, classes=tuple(range(34)), split="val"):
        files, rng = {}, np.random.default_rng(len(classes))
        for name in names:
            city, stem = name.split("/")
            folder = root / "gtFine" / split / city
            for needed in (folder, root / "results"):
                needed.mkdir(parents=True, exist_ok=True)
            labels = patches(rng, classes)
            # Some objects are not told apart, and have their class's id alone.
            is_instance = np.isin(labels, range(24, 34)) & (patches(rng, [0, 1, 1]) == 1)
            instances = np.where(is_instance, 1000 * labels + patches(rng, range(3)), labels)
            noise = rng.random(labels.shape) < 0.4
            predictions = np.where(noise, rng.choice(CITYSCAPES.raw_ids, labels.shape), labels)
            predictions = np.where(np.isin(predictions, CITYSCAPES.raw_ids), predictions, 7).astype(np.uint8)
            Image.fromarray(labels.astype(np.uint8)).save(folder / f"{stem}_gtFine_labelIds.png")
            Image.fromarray(instances.astype(np.uint16)).save(folder / f"{stem}_gtFine_instanceIds.png")
            Image.fromarray(predictions).save(root / "results" / f"{stem}_pred_labelIds.png")
            files[name] = (labels, predictions)
        return files

    return write


@pytest.fixture
def official_evaluation(monkeypatch, tmp_path):
    """A function that runs cityscapesScripts over a folder with labels and one with predictions.

    It returns what the evaluation prints, {name: (IoU, nIoU) as text}, and what it writes.
    """
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    # It calls a function that NumPy has under another name.
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)

    def evaluate(labels, predictions):
        for key, value in {
            "predictionPath": str(predictions),
            "predictionWalk": None,
            "exportFile": str(tmp_path / "official" / "results.json"),
            "colorized": False,
            "bold": "",
            "nocol": "",
        }.items():
            monkeypatch.setattr(script.args, key, value)
        truths = [str(path) for path in sorted(labels.rglob("*_gtFine_labelIds.png"))]
        with redirect_stdout(io.StringIO()) as said:
            found = [script.getPrediction(script.args, truth) for truth in truths]
            written = script.evaluateImgLists(found, truths, script.args)
        rows = re.findall(r"^([a-zA-Z ]+?) *: +([\d.]+|nan) +([\d.]+|nan)$", said.getvalue(), re.MULTILINE)
        assert len(rows) == 28 and rows[19][0] == rows[27][0] == "Score Average"
        names = [*(row[0] for row in rows[:19]), "mean of classes", *(row[0] for row in rows[20:27])]
        return dict(zip([*names, "mean of categories"], (row[1:] for row in rows), strict=True)), written

    return evaluate
