"""Data sets as their owners publish them: which download holds what, how much of it, and what is missing."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from dpanet_jax.data.archives import File, files_of_archive, files_of_folder
from dpanet_jax.data.listing import Listing, Pair
from dpanet_jax.options import Option

_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Published:
    """How much of a published data set must be there."""

    partial: Annotated[bool, Option("take a subset as it is, where the published counts are not reached")] = (
        False
    )


@dataclasses.dataclass(frozen=True)
class Download:
    """One published archive. folders: where its files lie when it is unpacked, below the source.

    The files' names begin below the first of `folders` in the archive too: it is the archive's own folder.
    holds: a file that tells an unpacked archive from another one with the same folder.
    inside: the archive's own folder, where it is not the first of `folders`; "": it has none.
    """

    archive: str
    page: str
    folders: tuple[str, ...]
    holds: str = ""
    inside: str | None = None

    @property
    def words(self) -> str:
        """What is wanted, and from which page."""
        return f"{self.archive} of {self.page}"

    def files(self, source: Path) -> dict[str, File] | None:
        """{name below its folder: file}, of the unpacked folder before the archive; None where neither is.

        Raises ArchiveError for an archive that is cut short.
        """
        stem = Path(self.archive).stem
        for folder in self.folders:
            for place in (source / folder, source / stem / folder):
                if place.is_dir() and (place / self.holds).exists():
                    return files_of_folder(place)
        return self.archived(source)

    def archived(self, source: Path) -> dict[str, File] | None:
        """As `files`, of the archive alone."""
        if not (source / self.archive).is_file():
            return None
        own = self.folders[0] if self.inside is None else self.inside
        head = own and own + "/"
        found = files_of_archive(source / self.archive)
        return {name.removeprefix(head): file for name, file in found.items() if name.startswith(head)}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The files of one kind in one split, as they are published.

    count: how many there are. files: {name of the pair: file}. what: what they are called in messages.
    """

    what: str
    count: int
    files: Mapping[str, File]
    download: Download

    def missing(self, partial: bool) -> list[str]:
        """What is said where the published number of them is not there; one text, or none."""
        have = len(self.files)
        if have == self.count or (partial and have):
            return []
        if have > self.count:
            return [
                f"{self.what}: {have:,} are there and {self.count:,} are published: remove what is not of "
                f"{self.download.words}, or take all with --partial"
            ]
        advice = "; --partial takes a subset as it is" if have else ""
        return [f"{self.what}: {have:,} of {self.count:,} are there; {self.download.words} has all{advice}"]


def ending(files: Mapping[str, File], head: str, *tails: str) -> dict[str, File]:
    """{name without head and tail: file} of the names that begin with `head` and end in one of `tails`."""
    found = {}
    for name, file in files.items():
        if name.startswith(head):
            for tail in tails:
                if name.endswith(tail):
                    found[name[len(head) : len(name) - len(tail)]] = file
    return found


def add_split(listing: Listing, split: str, images: Wanted, labels: Wanted | None, partial: bool) -> None:
    """Adds the pairs of one split to the listing, or says what is missing of them.

    A label without an image is a problem, unless `partial`. An image without a label always is.
    """
    problems = images.missing(partial) + (labels.missing(partial) if labels else [])
    if labels is None:
        listing.splits[split] = [Pair(name, images.files[name], None) for name in sorted(images.files)]
    else:
        lone = [(images.files[name], "a label") for name in sorted(images.files.keys() - labels.files.keys())]
        if not partial:
            lone += [
                (labels.files[name], "an image") for name in sorted(labels.files.keys() - images.files.keys())
            ]
        # Where the counts say already what is missing, each file of it would say it again.
        if lone and not problems:
            named = ", ".join(str(file) for file, _ in lone[:_NAMED])
            more = f" and {len(lone) - _NAMED} more" if len(lone) > _NAMED else ""
            lacking = " or ".join(sorted({lacks for _, lacks in lone}))
            problems.append(f"{split}: without {lacking} of the same name: {named}{more}")
        listing.splits[split] = [
            Pair(name, images.files[name], labels.files[name])
            for name in sorted(images.files.keys() & labels.files.keys())
        ]
    listing.problems += problems


def require_apart(listing: Listing) -> None:
    """Adds a problem where two splits share names: what is trained on must not be measured on."""
    listing.problems += shared(
        {split: [pair.name for pair in pairs] for split, pairs in listing.splits.items()}
    )


def shared(names: Mapping[str, Iterable[str]]) -> list[str]:
    """One text for every two splits that share names, of {what a split is called: its names}."""
    problems = []
    sets = {split: set(of_split) for split, of_split in names.items()}
    for first, second in itertools.combinations(sets, 2):
        both = sorted(sets[first] & sets[second])
        if both:
            problems.append(
                f"{first} and {second} share {len(both):,} images, such as {_listed(both)}: "
                "a score would be of images that were trained on"
            )
    return problems


def not_there(downloads: Iterable[Download]) -> list[str]:
    """One text a download of which nothing is there."""
    return [
        f"nothing of {download.words} is there: neither the archive nor "
        + " or ".join(f"{folder}/{download.holds}" for folder in download.folders)
        for download in downloads
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED])
