"""The confusion matrix of a split: the one path of training's validation, `evaluate` and `compare`."""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import numpy as np

from dpanet_jax.data import pipeline
from dpanet_jax.data.split import Split
from dpanet_jax.evaluation.figures import Kept
from dpanet_jax.evaluation.metrics import ConfusionMatrix, from_halves, to_halves
from dpanet_jax.evaluation.protocols import Protocol


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """matrix: of the whole split, over all processes. kept: what was asked for, as far as seen here."""

    matrix: ConfusionMatrix
    kept: dict[int, Kept]


def evaluate(
    protocol: Protocol,
    variables: dict[str, Any],
    split: Split,
    batch_size: int,
    *,
    keep: Collection[int] = (),
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Evaluated:
    """Every image once, padding never, over all processes; `batch_size` is of all of them together.

    `variables` are what `protocol.put` returned; `keep` the indices of examples to keep; `progress` wraps the
    iterable of batches. Raises UsageError for a split without labels.
    """
    matrix = ConfusionMatrix(len(split.classes.names))
    kept = {}
    batches = pipeline.eval_batches(
        split, batch_size, process_index=jax.process_index(), process_count=jax.process_count()
    )
    for batch in progress(batches):
        predictions = protocol.ids(batch["image"], variables)
        matrix.update(batch["label"][batch["mask"]], predictions[batch["mask"]])
        for row, index in enumerate(batch["index"].tolist()):
            if index in keep:
                # Copies: the batch's memory may be a worker's, and is large.
                image, label = batch["image"][row].copy(), batch["label"][row].copy()
                kept[index] = Kept(image, label, predictions[row].copy())
    return Evaluated(_over_processes(matrix), kept)


def _over_processes(matrix: ConfusionMatrix) -> ConfusionMatrix:
    if jax.process_count() == 1:
        return matrix
    from jax.experimental import multihost_utils

    halves = multihost_utils.process_allgather(to_halves(matrix.counts))
    return ConfusionMatrix(matrix.num_classes, from_halves(np.asarray(halves)))
