"""What a source's files hold, counted: labelled pixels by class and split, and what can only go wrong."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpanet_jax.data.archives import File
from dpanet_jax.data.classes import IGNORE_LABEL, Classes
from dpanet_jax.data.listing import Pair

# {split: {"classes": pixels of each class, "ignored": pixels}}: JSON-able.
Pixels = Mapping[str, Mapping[str, Any]]

# A brightest value below this is what 12-bit pixels in 16-bit files come to.
_DARK = 16
_NAMED = 5


@dataclasses.dataclass
class Seen:
    """What one pair of files holds, and what is wrong with it.

    size: (height, width) as viewers show the image. digest and image_digest: of both files' content, and the
    image's. raw_counts: (256,) pixels of each id, None without a label. rewritten: the files that are not
    stored as they are. turned: whether an EXIF orientation was applied. extrema: the smallest and the largest
    value, of 8 bits. extra_channels: whether the image has channels that are not read.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    image_digest: bytes = b""
    raw_counts: np.ndarray | None = None
    rewritten: list[File] = dataclasses.field(default_factory=list)
    turned: bool = False
    extrema: tuple[int, int] = (0, 255)
    extra_channels: bool = False


class Census:
    """Counts what `check` has read, one pair of files at a time."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._raw: dict[str, np.ndarray] = {}
        self._first_seen: dict[bytes, tuple[str, Pair]] = {}
        self._twice: dict[tuple[str, str], list[tuple[Pair, Pair]]] = {}
        self._images: dict[str, int] = {}
        self._flat: dict[str, list[Pair]] = {}
        self._turned: dict[str, list[Pair]] = {}
        self._brightest: dict[str, int] = {}
        self._channels: dict[str, list[Pair]] = {}

    def add(self, split: str, pair: Pair, seen: Seen) -> None:
        """Counts one pair of a split."""
        if seen.raw_counts is not None:
            self._raw[split] = self._raw.get(split, np.zeros(256, np.int64)) + seen.raw_counts
        self._images[split] = self._images.get(split, 0) + 1
        self._brightest[split] = max(self._brightest.get(split, 0), seen.extrema[1])
        for odd, pairs in (
            (seen.extrema[0] == seen.extrema[1], self._flat),
            (seen.turned, self._turned),
            (seen.extra_channels, self._channels),
        ):
            if odd:
                pairs.setdefault(split, []).append(pair)
        first_split, first = self._first_seen.setdefault(seen.image_digest, (split, pair))
        if first_split != split:
            self._twice.setdefault((first_split, split), []).append((first, pair))

    def pixels(self) -> dict[str, dict[str, Any]]:
        """{split: {"classes": pixels of each class, "ignored": pixels}} of the splits with labels."""
        counted = {}
        for split, raw in self._raw.items():
            by_train_id = np.bincount(self._classes.id_map, weights=raw, minlength=256).astype(np.int64)
            counted[split] = {
                "classes": by_train_id[: len(self._classes)].tolist(),
                "ignored": int(by_train_id[IGNORE_LABEL]),
            }
        return counted

    def problems(self) -> list[str]:
        """What can only go wrong, in training or evaluation, one text each."""
        found = []
        names = self._classes.names
        if len(names) == 1:
            return [self._only_class()]
        for split, counts in self.pixels().items():
            present = np.flatnonzero(counts["classes"])
            raw = np.flatnonzero(self._raw[split])
            if not present.size:
                away = f", or take the labels of {split} away, which it may lack" * (split == "test")
                found.append(
                    f"{split}: every pixel of its labels is ignored (they hold the ids "
                    f"{', '.join(map(str, raw))} alone), so nothing can be learned or measured{away}"
                )
            elif split == "train" and present.size == 1:
                found.append(self._one_class_alone(int(present[0]), raw))
        return found

    def _only_class(self) -> str:
        raw = np.flatnonzero(np.sum([*self._raw.values(), np.zeros(256, np.int64)], axis=0))
        left_out = [i for i in raw.tolist() if self._classes.id_map[i] == IGNORE_LABEL != i]
        advice = "add a row for the rest, such as one named background"
        if left_out:
            advice = f"name the row of id {left_out[0]} background, where it is named ignore"
        return (
            f"{self._classes.names[0]!r} is the only class: there is nothing to tell apart; in classes.csv, "
            + advice
        )

    def _one_class_alone(self, present: int, raw: np.ndarray) -> str:
        names = self._classes.names
        others = [name for k, name in enumerate(names) if k != present]
        text = (
            f"train: every labelled pixel is {names[present]!r}, and not one is {_listed(others)}, so "
            "there is nothing to learn"
        )
        if IGNORE_LABEL in raw and self._classes.id_map[IGNORE_LABEL] == IGNORE_LABEL:
            share = self._raw["train"][IGNORE_LABEL] / self._raw["train"].sum()
            text += (
                f"; {share:.1%} of the pixels are 255, which is ignored: if that is {others[0]!r}, "
                "give 255 as its id in classes.csv (a column id)"
            )
        return text

    def notes(self) -> list[str]:
        """What is odd and may be meant, one line each."""
        lines = pixel_notes(self._classes.names, self.pixels())
        for split, count in self._images.items():
            for words, found in (
                ("with an EXIF orientation, turned as viewers show them", self._turned),
                ("with more channels than grey or RGB, which are left out", self._channels),
                ("of one flat value", self._flat),
            ):
                if pairs := found.get(split):
                    lines.append(
                        f"{split}: images {words}: {len(pairs)} of {count}, such as {pairs[0].image}"
                    )
        for (first, second), both in self._twice.items():
            lines.append(
                f"{second}: images that are also in {first}: {len(both)}, such as {both[0][1].image} "
                f"({both[0][0].image}); scores on {second} say less for it"
            )
        for split, count in self._images.items():
            flat = self._flat.get(split, [])
            if self._brightest[split] < _DARK and len(flat) < count:
                lines.append(
                    f"{split}: no image has a value above {self._brightest[split]} of 255. 16-bit values are "
                    "divided by 256; stretch images that use fewer bits to the whole range first"
                )
        return lines


def pixel_notes(names: Sequence[str], pixels: Pixels) -> list[str]:
    """Which classes have no pixel in a split, one line for each such split."""
    said = {"train": "the network cannot learn it", "val": "it is not measured there"}
    lines = []
    for split, counts in pixels.items():
        absent = [name for name, count in zip(names, counts["classes"], strict=True) if not count]
        if absent and split in said:
            lines.append(f"{split} has not one pixel of {_listed(absent)}: {said[split]}")
    return lines


def _listed(names: Sequence[str]) -> str:
    more = f" (and {len(names) - _NAMED} more classes)" if len(names) > _NAMED else ""
    return f"{', '.join(map(repr, names[:_NAMED]))}{more}"


def print_table(names: Sequence[str], pixels: Pixels, title: str) -> None:
    """A row for each class: its labelled pixels in every split, and their share in percent."""
    # Rich takes a while to load, and a quiet `prepare` does without.
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title)
    table.add_column("class")
    for split in pixels:
        table.add_column(f"{split}: pixels", justify="right")
        table.add_column("%", justify="right")
    for k, name in enumerate(names):
        table.add_row(
            escape(name), *_columns([(c["classes"][k], sum(c["classes"])) for c in pixels.values()])
        )
    table.add_section()
    everything = [(c["ignored"], sum(c["classes"]) + c["ignored"]) for c in pixels.values()]
    table.add_row("ignored, of all pixels", *_columns(everything))
    console = Console()
    # A table in a log file keeps its width whatever the terminal that the log is made in.
    (console if console.is_terminal else Console(width=100)).print(table)


def _columns(counts: Sequence[tuple[int, int]]) -> list[str]:
    texts = []
    for count, total in counts:
        texts += [f"{count:,}", f"{100 * count / total:.2f}" if total else "–"]
    return texts
