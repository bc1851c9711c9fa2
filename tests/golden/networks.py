"""What the golden networks are fed: weights, batches and recipes made from numbers, without a framework.

`scripts/make_golden.py` gives it to PyTorch and writes what comes out to `networks.json`; the test gives it
to Flax.
"""

import numpy as np

from dpanet_jax.compare.measured import Measured, Recipe
from dpanet_jax.training.options import Optimizer

_SMALL = {"width": 4, "dropout": 0.0}
NETWORKS = {
    "dpanet, resnet18": {**_SMALL, "backbone": "resnet18", "reduce_channels": 8, "align_corners": True},
    "dpanet, resnest50": {
        **_SMALL,
        "backbone": "resnest50",
        "reduce_channels": 8,
        "fusion": "sum",
        "qkv": "conv",
    },
    "fcn, resnet50, deep stem": {**_SMALL, "name": "fcn", "backbone": "resnet50", "stem": "deep"},
}
NUM_CLASSES = 5
STEPS = 3
BATCH = 8


def recipe(name: str) -> Recipe:
    return Recipe(
        num_classes=NUM_CLASSES,
        options=NETWORKS[name],
        loss_weights={"fused": 1.0, "spatial": 1.0, "channel": 1.0, "auxiliary": 0.4},
        class_weights=(),
        optimizer=Optimizer(
            lr=0.005, power=0.9, warmup_steps=2, momentum=0.9, weight_decay=1e-4, head_lr_multiplier=10.0
        ),
        batch_size=BATCH,
        total_steps=20,
    )


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A state dict of float64 for PyTorch's {name: shape}, whatever the order of the names."""
    rng = np.random.default_rng(0)
    state_dict = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if len(shape) == 4:
            state_dict[name] = (rng.random(shape) - 0.5) * np.sqrt(12 / np.prod(shape[1:]))
        elif name.endswith(("running_mean", "bias")):
            state_dict[name] = 0.4 * rng.random(shape) - 0.2
        else:  # batch norms' weights and variances, λ and μ
            state_dict[name] = 0.5 + rng.random(shape)
    return state_dict


def batches() -> list[dict[str, np.ndarray]]:
    """As training's pipeline yields them; the last rows and columns of the second image are padding.

    More than a few images: a ResNeSt's batch norm over one value an image is ill-conditioned otherwise.
    """
    rng = np.random.default_rng(1)
    extent = np.full((BATCH, 2), (33, 41), np.int32)
    extent[1] = 30, 37
    made: list[dict[str, np.ndarray]] = []
    for _ in range(STEPS):
        image = rng.integers(0, 256, (BATCH, 33, 41, 3)).astype(np.uint8)
        label = rng.choice([*range(NUM_CLASSES), 255], (BATCH, 33, 41)).astype(np.uint8)
        made.append({"image": image, "label": label, "extent": extent})
    return made


def summary(measured: Measured) -> dict[str, dict[str, list[float]]]:
    """{group: {name: [largest magnitude, sum against a fixed pattern]}} of every array."""
    return {
        group: {name: _two_numbers(array) for name, array in arrays.items()}
        for group, arrays in vars(measured).items()
    }


def _two_numbers(array: np.ndarray) -> list[float]:
    flat = np.asarray(array, np.float64).ravel()
    # A pattern that no permutation or transposition of the array leaves as it is.
    return [float(np.abs(flat).max()), float(flat @ np.cos(np.arange(flat.size) ** 1.5))]
