"""The confusion matrix of a split: the one path of training's validation, `evaluate` and `compare`."""

import collections
import contextlib
import dataclasses
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol, Self

import numpy as np

from dpanet_jax import hosts
from dpanet_jax.data import pipeline
from dpanet_jax.data.pipeline import Batch
from dpanet_jax.data.split import Split
from dpanet_jax.errors import OutOfMemory, UsageError, is_out_of_memory
from dpanet_jax.evaluation import protocols
from dpanet_jax.evaluation.counting import DeviceCounts
from dpanet_jax.evaluation.figures import Kept
from dpanet_jax.evaluation.metrics import ConfusionMatrix


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """matrix: of the whole split, over all processes. kept: the examples that were asked for."""

    matrix: ConfusionMatrix
    kept: dict[int, Kept]


class Observer(Protocol):
    """What looks at every example of an evaluation beside the confusion matrix. `pickle` must take it."""

    def see(self, name: str, index: int, label: np.ndarray, prediction: np.ndarray) -> None:
        """One example: its name and place in the split, (H, W) train ids of label and prediction.

        An ignored pixel of the label is 255; all are where the split has no labels.
        """

    def merge(self, other: Self) -> None:
        """Takes in what an observer of the same kind has seen on another host."""


def evaluate(
    protocol: protocols.Protocol,
    variables: dict[str, Any],
    split: Split,
    batch_size: int,
    *,
    keep: Collection[int] = (),
    observers: Sequence[Observer] = (),
    may_lack_labels: bool = False,
    num_threads: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Evaluated:
    """Every image once, padding never, over all processes; `batch_size` is of all of them together.

    variables: what `protocol.put` returned. keep: the indices of examples to keep. observers: see every
    example, and have seen those of all processes at the end. may_lack_labels: a split without labels is
    allowed, for the observers' sake: the matrix is then empty. num_threads: threads that read; 0 is
    `cores.readers()`. progress: wraps the iterable of batches.
    Raises UsageError for a split without labels otherwise, or a batch that does not split evenly over the
    hosts, and OutOfMemory.
    """
    if batch_size % hosts.count():
        raise UsageError(
            f"a batch of {batch_size} (--batch_size, config.evaluation.batch_size) does not split evenly "
            f"over {hosts.count()} hosts"
        )
    counts = DeviceCounts(len(split.classes.names))
    kept = {}
    batches = pipeline.eval_batches(
        split,
        batch_size,
        hosts.index(),
        hosts.count(),
        num_threads=num_threads or None,
        may_lack_labels=may_lack_labels,
    )
    with memory_said_in_one_line(batch_size, protocol):
        read: collections.deque[Batch] = collections.deque()

        def images() -> Iterator[np.ndarray]:
            for batch in progress(batches):
                # Rows that fill up a batch keep its shape, which only some protocols compile for.
                rows = slice(None) if protocol.fills_up else batch["mask"]
                if not batch["mask"].any() and not protocol.fills_up:
                    continue
                batch = {key: value[rows] for key, value in batch.items()}
                batch["image"], batch["label"] = protocol.measured(batch["image"], batch["label"])
                read.append(batch)
                yield read[-1]["image"]

        for predictions in protocol.each(images(), variables):
            batch = read.popleft()
            counts.add(batch["label"], predictions)  # A row that fills up is ignored in every pixel.
            for row, index in enumerate(batch["index"].tolist()):
                for observer in observers if index >= 0 else ():
                    observer.see(batch["name"][row], index, batch["label"][row], predictions[row])
                if index in keep:
                    # Copies: the batch's memory may be a worker's, and is large.
                    image, label = batch["image"][row].copy(), batch["label"][row].copy()
                    kept[index] = Kept(image, label, predictions[row].copy())
        matrix = counts.matrix()
    return _over_processes(Evaluated(matrix, kept), observers)


@contextlib.contextmanager
def memory_said_in_one_line(batch_size: int, protocol: protocols.Protocol) -> Iterator[None]:
    """Memory that does not suffice to evaluate becomes an OutOfMemory, which names what to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        lower = (
            f"the batch size, now {batch_size} (--batch_size, config.evaluation.batch_size)"
            if batch_size > 1 and protocol.fills_up
            else protocol.lower
        )
        raise OutOfMemory(f"the memory does not suffice for the evaluation: lower {lower}") from error


def _over_processes(here: Evaluated, observers: Sequence[Observer]) -> Evaluated:
    """What all processes have seen together, from what each has; the observers' share goes into them."""
    if hosts.count() == 1:
        return here
    matrix = ConfusionMatrix(here.matrix.num_classes)
    kept: dict[int, Kept] = {}
    contents = hosts.gather(pickle.dumps((here.matrix.counts, here.kept, list(observers))))
    for host, content in enumerate(contents):
        counts, its, theirs = pickle.loads(content)
        matrix = matrix.merge(ConfusionMatrix(matrix.num_classes, counts))
        kept |= its
        for observer, other in zip(observers, theirs, strict=True):
            if host != hosts.index():
                observer.merge(other)
    return Evaluated(matrix, kept)
