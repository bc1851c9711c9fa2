"""From a split to batches of uint8, with Grain: what training and evaluation read.

Arrays: images (b, h, w, 3) uint8 RGB; labels (b, h, w) uint8 train ids, of which IGNORE_LABEL is ignored.
"""

import functools
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np
from absl import flags

from dpanet_jax import cores
from dpanet_jax.data.augment import augment
from dpanet_jax.data.classes import IGNORE_LABEL
from dpanet_jax.data.options import Augmentation
from dpanet_jax.data.split import Split, open_split
from dpanet_jax.errors import UsageError

__all__ = [
    "EvalBatches",
    "Split",
    "TrainBatches",
    "UnlabelledSplit",
    "eval_batches",
    "open_split",
    "require_labels",
    "train_batches",
]

Batch = dict[str, np.ndarray]

# More than any run has. Grain's own endless repeat overflows where a batch holds one row.
_EPOCHS = 2**32

# The (height, width) of a batch and the examples in its rows; -1 is a row that only fills it up.
_Plan = tuple[tuple[int, int], list[int]]


class UnlabelledSplit(UsageError):
    """A split without labels was to be trained on or evaluated."""


class _Encoded:
    """A split whose images `augment` decodes."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._split.encoded(index)


class TrainBatches:
    """An endless iterator of training batches whose state is a small dict; see `train_batches`."""

    def __init__(
        self, batches: grain.MapDataset, identity: dict[str, Any], num_workers: int, threads: int
    ) -> None:
        self._batches = batches
        self._identity = identity
        self._num_workers = num_workers
        self._threads = threads
        self._next_batch = 0
        # Grain's iterator while it runs, alone in a list that can be emptied before the interpreter
        # takes its modules apart: ended later than that, its workers print traces.
        self._reading: list[grain.DatasetIterator] = []
        weakref.finalize(self, _end, self._reading)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self._reading:
            self._reading.append(iter(self._reader()))
        batch = next(self._reading[0])
        self._next_batch += 1
        if self._num_workers:
            # Out of the workers' shared memory, whose lifetime is not the array's.
            batch = {key: np.array(value) for key, value in batch.items()}
        return batch

    def _reader(self) -> grain.IterDataset:
        # Starting anew at the batch wanted, rather than restoring Grain's own iterator state, makes
        # the state the same whatever the number of workers.
        remaining = self._batches.slice(slice(self._next_batch, None))
        if not self._num_workers:
            return remaining.to_iter_dataset(_read_options(self._threads))
        # Grain's worker processes read absl flags, which nobody has parsed in a notebook or a test.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.multiprocessing.MultiprocessingOptions(
            num_workers=self._num_workers, per_worker_buffer_size=2
        )
        return remaining.to_iter_dataset(_read_options(self._threads)).mp_prefetch(options)

    def get_state(self) -> dict[str, Any]:
        """JSON-able: the number of the batch that `next` gives, and whose stream it is."""
        return {"next_batch": self._next_batch, **self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where the iterator stood that gave the state, whatever the number of workers of either.

        Raises UsageError (a ValueError) where the state is of another data set, seed or global batch size.
        """
        names = {"fingerprint": "data set or split (fingerprint)", "batch_size": "batch size"}
        for key, ours in self._identity.items():
            if state.get(key) != ours:
                raise UsageError(
                    f"the data's state is of another {names.get(key, key)}: {state.get(key)}, where"
                    f" this run has {ours}; resume with what the run was started with"
                )
        self.close()
        self._next_batch = int(state["next_batch"])

    def close(self) -> None:
        """Ends the threads or worker processes; the next `next` starts them again, where it was."""
        _end(self._reading)


def _end(reading: list[grain.DatasetIterator]) -> None:
    while reading:
        reading.pop().close()


def train_batches(
    split: Split,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    block: int = 0,
    num_blocks: int = 1,
    num_workers: int = 0,
    num_threads: int | None = None,
) -> TrainBatches:
    """Endless shuffled, augmented batches; every epoch has its own order. See `augment`.

    batch_size is the global one. Yields the rows of one of its num_blocks contiguous blocks:
    {"image": (b, h, w, 3) uint8, "label": (b, h, w) uint8, "extent": (b, 2) int32} with
    b = batch_size / num_blocks and (h, w) = crop_size. Batch n depends on (split, seed, n)
    and the augmentation alone: not on workers, threads, blocks or how often a run was resumed.

    num_workers: processes that read, in num_threads threads each (default: 1); 0 reads in threads of this
    process (default: `cores.readers()`).
    Worker processes are spawned, so a script needs its `if __name__ == "__main__"`.

    Raises UnlabelledSplit for a split without labels, and UsageError (a ValueError) naming the argument
    that is wrong.
    """
    require_labels(split)
    rows = _rows_of_a_block(batch_size, block, num_blocks)
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must lie in 0 to 2**32 - 1, not {seed}")
    transform = functools.partial(augment, augmentation=augmentation)
    source = _Encoded(split) if augmentation.reduced_decoding else split
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat(_EPOCHS)
    examples = examples.random_map(transform)
    # Batch n is the chunks n · num_blocks to (n + 1) · num_blocks - 1.
    mine = examples.batch(rows).slice(slice(block, None, num_blocks))
    identity = {"fingerprint": split.fingerprint, "seed": seed, "batch_size": batch_size}
    threads = (1 if num_workers else cores.readers()) if num_threads is None else num_threads
    return TrainBatches(mine, identity, num_workers, threads)


class EvalBatches:
    """Every example once, in batches of one image size; `len` counts them. See `eval_batches`."""

    def __init__(self, split: Split, plans: list[_Plan], threads: int) -> None:
        self._split = split
        self._plans = plans
        self._threads = threads

    def __len__(self) -> int:
        return len(self._plans)

    def __iter__(self) -> Iterator[Batch]:
        batches = grain.MapDataset.source(self._plans).map(self._read)
        return iter(batches.to_iter_dataset(_read_options(self._threads)))

    def _read(self, plan: _Plan) -> Batch:
        (height, width), rows = plan
        index = np.array(rows, np.int32)
        images = np.zeros((len(rows), height, width, 3), np.uint8)
        labels = np.full((len(rows), height, width), IGNORE_LABEL, np.uint8)
        names = np.full(len(rows), "", object)
        for row, i in enumerate(rows):
            if i >= 0:
                example = self._split[i]
                images[row], names[row] = example["image"], example["name"]
                if self._split.labelled:
                    labels[row] = example["label"]
        return {"image": images, "label": labels, "mask": index >= 0, "index": index, "name": names}


def eval_batches(
    split: Split,
    batch_size: int,
    block: int = 0,
    num_blocks: int = 1,
    num_threads: int | None = None,
    may_lack_labels: bool = False,
) -> EvalBatches:
    """Batches that hold every example of `split` exactly once, each image at its own size.

    batch_size is the global one; of each batch come the rows of one of its num_blocks contiguous blocks,
    and every block has as many batches, of the same shapes. Images of one size share batches, in
    their order, so there are as few shapes as sizes. Yields {"image": (b, H, W, 3) uint8, "label":
    (b, H, W) uint8, "mask": (b,) bool, "index": (b,) int32, "name": (b,) text as objects}: where the mask
    is False the row fills up a last batch, with label IGNORE_LABEL, index -1 and no name.

    num_threads: threads that read (default: `cores.readers()`).
    may_lack_labels: a split without labels is read too, and all its pixels have IGNORE_LABEL.

    Raises UnlabelledSplit for a split without labels otherwise, and UsageError (a ValueError) where
    batch_size and num_blocks do not fit.
    """
    if not may_lack_labels:
        require_labels(split)
    count = _rows_of_a_block(batch_size, block, num_blocks)
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, size in enumerate(split.sizes):
        by_size.setdefault(size, []).append(i)
    plans = []
    for size, indices in by_size.items():
        indices = indices + [-1] * (-len(indices) % batch_size)
        for start in range(0, len(indices), batch_size):
            rows = indices[start : start + batch_size]
            plans.append((size, rows[block * count : (block + 1) * count]))
    threads = cores.readers() if num_threads is None else num_threads
    return EvalBatches(split, plans, threads)


def require_labels(split: Split) -> None:
    """Raises UnlabelledSplit for a split without labels."""
    if not split.labelled:
        raise UnlabelledSplit(
            f"split {split.name!r} has no labels, so nothing can be trained on it or evaluated; "
            "python -m dpanet_jax predict segments its images, and evaluate --submission those of a benchmark"
        )


def _rows_of_a_block(batch_size: int, block: int, num_blocks: int) -> int:
    if batch_size < 1 or batch_size % num_blocks:
        raise UsageError(f"batch_size {batch_size} must be a multiple of the {num_blocks} blocks")
    if not 0 <= block < num_blocks:
        raise UsageError(f"block {block} must lie below {num_blocks}")
    return batch_size // num_blocks


def _read_options(threads: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
