"""The confusion matrix of a split: the one path of training's validation, `evaluate` and `compare`."""

import collections
import contextlib
import dataclasses
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np

from dpanet_jax import hosts
from dpanet_jax.data import pipeline
from dpanet_jax.data.pipeline import Batch
from dpanet_jax.data.split import Split
from dpanet_jax.errors import OutOfMemory, UsageError, is_out_of_memory
from dpanet_jax.evaluation.figures import Kept
from dpanet_jax.evaluation.metrics import ConfusionMatrix
from dpanet_jax.evaluation.protocols import Protocol


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """matrix: of the whole split, over all processes. kept: the examples that were asked for."""

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

    variables: what `protocol.put` returned. keep: the indices of examples to keep. progress: wraps the
    iterable of batches. Raises UsageError for a split without labels, or a batch that does not split evenly
    over the hosts, and OutOfMemory.
    """
    if batch_size % hosts.count():
        raise UsageError(
            f"a batch of {batch_size} (--batch_size, config.evaluation.batch_size) does not split evenly "
            f"over {hosts.count()} hosts"
        )
    matrix = ConfusionMatrix(len(split.classes.names))
    kept = {}
    batches = pipeline.eval_batches(split, batch_size, hosts.index(), hosts.count())
    with memory_said_in_one_line(batch_size):
        read: collections.deque[Batch] = collections.deque()

        def images() -> Iterator[np.ndarray]:
            for batch in progress(batches):
                # Rows that fill up a batch keep its shape, which only some protocols compile for.
                rows = slice(None) if protocol.fills_up else batch["mask"]
                if not batch["mask"].any() and not protocol.fills_up:
                    continue
                read.append({key: value[rows] for key, value in batch.items()})
                yield read[-1]["image"]

        for predictions in protocol.each(images(), variables):
            batch = read.popleft()
            matrix.update(batch["label"][batch["mask"]], predictions[batch["mask"]])
            for row, index in enumerate(batch["index"].tolist()):
                if index in keep:
                    # Copies: the batch's memory may be a worker's, and is large.
                    image, label = batch["image"][row].copy(), batch["label"][row].copy()
                    kept[index] = Kept(image, label, predictions[row].copy())
    return _over_processes(Evaluated(matrix, kept))


@contextlib.contextmanager
def memory_said_in_one_line(batch_size: int) -> Iterator[None]:
    """Memory that does not suffice to evaluate becomes an OutOfMemory, which names what to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        lower = (
            f"the batch size, now {batch_size} (--batch_size, config.evaluation.batch_size)"
            if batch_size > 1
            else "the size of the images (--base_size, config.evaluation.base_size)"
        )
        raise OutOfMemory(f"the memory does not suffice for the evaluation: lower {lower}") from error


def _over_processes(here: Evaluated) -> Evaluated:
    """What all processes have seen together, from what each has."""
    if hosts.count() == 1:
        return here
    matrix = ConfusionMatrix(here.matrix.num_classes)
    kept: dict[int, Kept] = {}
    for content in hosts.gather(pickle.dumps((here.matrix.counts, here.kept))):
        counts, its = pickle.loads(content)
        matrix = matrix.merge(ConfusionMatrix(matrix.num_classes, counts))
        kept |= its
    return Evaluated(matrix, kept)
