"""What a run draws: the batch that it is fed first, and some predictions at each evaluation."""

from collections.abc import Mapping

import numpy as np

from dpanet_jax.data.classes import Classes, colorize
from dpanet_jax.data.pipeline import TrainBatches
from dpanet_jax.evaluation import figures

_ROWS = 8


def of_first_batch(batches: TrainBatches, classes: Classes) -> np.ndarray:
    """What the network is fed: crops and labels of the next batch, drawn and not consumed."""
    state = batches.get_state()
    batch = next(batches)
    batches.set_state(state)
    return figures.sheet(
        {
            "training crop": list(batch["image"][:_ROWS]),
            "label": [colorize(label, classes) for label in batch["label"][:_ROWS]],
        }
    )


def chosen(count: int, num_examples: int) -> tuple[int, ...]:
    """`count` examples to draw, or all. They are spread out: neighbouring frames of a video look alike."""
    count = min(count, num_examples)
    return tuple(i * num_examples // count for i in range(count))


def of_predictions(kept: Mapping[int, figures.Kept], classes: Classes) -> np.ndarray:
    """Images, labels and predictions side by side; `kept` is what an evaluation kept, by example."""
    return figures.comparison([kept[i] for i in sorted(kept)], classes)
