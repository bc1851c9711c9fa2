"""Files of a published data set where its downloads lie: unpacked, or in ZIP and TAR archives.

An archive's files are read in place, from several threads at once, so nothing is unpacked to disk.
"""

import dataclasses
import functools
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from dpanet_jax.data import finder
from dpanet_jax.errors import DPANetError

# TAR's unit. A whole archive ends in units of zeros.
_BLOCK = 512


class ArchiveError(DPANetError, OSError):
    """An archive, or a file in it, cannot be read; the text names it."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in an archive, which stands where a path does: `str` is ARCHIVE/NAME."""

    archive: Path
    inside: str
    read: Callable[[], bytes] = dataclasses.field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.archive}/{self.inside}"

    @property
    def name(self) -> str:
        """The last part of its name."""
        return PurePosixPath(self.inside).name

    @property
    def suffix(self) -> str:
        """The last part of its name from the last dot on."""
        return PurePosixPath(self.inside).suffix

    def read_bytes(self) -> bytes:
        """Its content. Raises ArchiveError where the archive is damaged there."""
        return self.read()


File = Path | Member


def files_of_folder(folder: Path) -> dict[str, File]:
    """{path below the folder, with forward slashes: file}, without hidden files; links are followed."""
    return {path.relative_to(folder).as_posix(): path for path in finder.walk(folder)}


def files_of_archive(path: Path) -> dict[str, File]:
    """{name in the archive: file} of a .zip or an uncompressed .tar, without hidden files.

    Raises ArchiveError where it is cut short or no such archive, or holds a name twice.
    """
    files: dict[str, File] = {}
    for member in _tar(path) if path.suffix == ".tar" else _zip(path):
        parts = PurePosixPath(member.inside).parts
        if any(part.startswith(".") for part in parts) or parts[0] == "__MACOSX":
            continue
        name = PurePosixPath(*parts).as_posix()
        if name in files:
            raise ArchiveError(f"{member}: twice in the archive; download it again")
        files[name] = member
    return files


def _zip(path: Path) -> Iterable[Member]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{path}: cut short, or no ZIP archive ({error}); download it again") from error
    for info in archive.infolist():
        if not info.is_dir():
            yield Member(path, info.filename, functools.partial(_read_zipped, archive, info))


def _read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(
            f"{archive.filename}/{info.filename}: unreadable ({error or 'cut short'}); download the archive "
            "again"
        ) from error


def _tar(path: Path) -> Iterable[Member]:
    try:
        with tarfile.open(path, "r:") as archive:
            infos = archive.getmembers()
            end = archive.offset
    except tarfile.TarError as error:
        raise ArchiveError(
            f"{path}: cut short, or no uncompressed TAR archive ({error}); download it again"
        ) from error
    with path.open("rb") as file:
        file.seek(end)
        # The library takes an archive that is cut between two files, or damaged there, for a whole one.
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise ArchiveError(f"{path}: cut short or damaged after {len(infos):,} files; download it again")
    for info in infos:
        if info.isreg():
            read = functools.partial(_read_part, path, info.name, info.offset_data, info.size)
            yield Member(path, info.name, read)


def _read_part(path: Path, name: str, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(size)
    if len(content) != size:
        raise ArchiveError(f"{path}/{name}: cut short; download the archive again")
    return content
