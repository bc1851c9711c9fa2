"""What a run draws: the batch that it is fed first, and some predictions at each evaluation."""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np

from dpanet_jax.data.classes import Classes, colorize
from dpanet_jax.data.pipeline import TrainBatches
from dpanet_jax.evaluation import figures
from dpanet_jax.progress import message
from dpanet_jax.training.log import RunLog

_ROWS = 8


def draw_first_batch(batches: TrainBatches, classes: Classes, log: RunLog) -> None:
    """Draws what the network is fed; the batch is not consumed."""
    state = batches.get_state()
    batch = next(batches)
    batches.set_state(state)
    with _never_ending_a_run("the first batch"):
        log.picture(0, "training_batch", of_batch(batch, classes), file="training_batch")


def draw_predictions(kept: Mapping[int, figures.Kept], classes: Classes, log: RunLog, step: int) -> None:
    """Draws the examples that an evaluation kept, if any."""
    if kept:
        with _never_ending_a_run(f"the predictions of step {step}"):
            log.picture(step, "predictions", of_predictions(kept, classes), file=f"step_{step:07d}")


@contextlib.contextmanager
def _never_ending_a_run(what: str) -> Iterator[None]:
    """A picture is worth a line and not a run: whatever keeps it from being drawn or written is only said."""
    try:
        yield
    except Exception as error:
        message(f"{what} could not be drawn ({type(error).__name__}: {' '.join(str(error).split())})")


def of_batch(batch: Mapping[str, np.ndarray], classes: Classes) -> np.ndarray:
    """Crops and labels of a training batch, side by side."""
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
