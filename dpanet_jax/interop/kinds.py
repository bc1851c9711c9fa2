"""What a file is by its content: weights, or one of the things that people take for weights."""

import json
import string
import zipfile
from pathlib import Path
from typing import Literal, TypeAlias

from dpanet_jax.interop.errors import WeightsError

Kind: TypeAlias = Literal["safetensors", "torch", "unknown"]

_CHUNK = 1 << 20
_AGAIN = "download or copy it again"
_UNPACK = "unpack it, and give the weights file that is in it"
_CONVERT = "weights are read from PyTorch's files and .safetensors only"
# The first bytes, what the file then is, and what to do.
_BEGINNINGS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and TensorFlow write them", _CONVERT),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"GGUF", "a GGUF model", _CONVERT),
    (b"%PDF", "a PDF document", "give the weights file"),
    (b"\x89PNG", "a picture", "give the weights file"),
    (b"\xff\xd8\xff", "a picture", "give the weights file"),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error", b"<!--", b"<script")
_LFS = b"version https://git-lfs"
# Fields of an ONNX model that follow its first one, the version: producer, graph, and operators.
_ONNX_SECOND_FIELDS = b"\x12\x3a\x42"


def kind_of(path: Path) -> Kind:
    """Which kind of weights a file holds, by its content. Raises WeightsError for what is known to hold none.

    The error says what the file is, and what to do. "unknown" is what may be a file of an old PyTorch.
    """
    size = path.stat().st_size
    if not size:
        raise _is(path, "an empty file", _AGAIN)
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PK"):
        _require_torch_zip(path)
        return "torch"
    if head.startswith(_LFS):
        raise _is(path, "a Git LFS pointer, which stands in place of the weights", "run: git lfs pull")
    for beginning, what, advice in _BEGINNINGS:
        if head.startswith(beginning):
            raise _is(path, what, advice)
    if head[257:262] == b"ustar":
        raise _is(path, "a tar archive", _UNPACK)
    if head[4:8] == b"TFL3":
        raise _is(path, "a TensorFlow Lite model", _CONVERT)
    if head[:1] == b"\x08" and head[2:3] and head[2:3] in _ONNX_SECOND_FIELDS:
        advice = "export the PyTorch network's state_dict() instead"
        raise _is(path, "an ONNX model", advice)
    if _is_safetensors(path, head, size):
        return "safetensors"
    _require_no_text(path, head, size)
    return "unknown"


def require_no_folder(path: Path) -> None:
    """Raises WeightsError for a folder: what it seems to be, and which file to give."""
    if not path.is_dir():
        return
    inside = sorted(file.name for file in path.iterdir())
    if ".metadata" in inside or any(name.endswith(".distcp") for name in inside):
        command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth"
        raise _is(path, "a distributed checkpoint of PyTorch", f"make one file of it: {command}")
    if "zero_to_fp32.py" in inside:
        raise _is(path, "a checkpoint of DeepSpeed", "make one file of it by its zero_to_fp32.py")
    if "checkpoints" in inside and "config.json" in inside:
        command = f"python -m dpanet_jax export-torch --workdir={path} --output=FILE.safetensors"
        raise _is(path, "a workdir of dpanet_jax", f"take its weights by: {command}")
    if "data.pkl" in inside:
        raise _is(path, "a PyTorch file that was unpacked", "give the file as it was downloaded")
    files = [name for name in inside if name.endswith((".safetensors", ".pth", ".pt", ".bin", ".ckpt"))]
    raise _is(path, "a folder", f"give a file in it{f', such as {path / files[0]}' if files else ''}")


def _is(path: Path, what: str, advice: str) -> WeightsError:
    return WeightsError(f"{path}: is {what}, and no file of weights; {advice}")


def _require_torch_zip(path: Path) -> None:
    """Raises WeightsError for a zip archive that is not of torch.save, or whose checksums do not hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            for member in archive.infolist():
                if member.CRC:  # PyTorch does not look at it, and may have been told to write none.
                    with archive.open(member) as file:
                        while file.read(_CHUNK):
                            pass
    except Exception as error:  # of whatever kind the damage leads to
        raise WeightsError(f"{path}: is cut short or damaged ({error}); {_AGAIN}") from error
    names = {member.rpartition("/")[2] for member in members}
    if "constants.pkl" in names:
        advice = f"take its weights by: torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pth')"
        raise _is(path, "a TorchScript program", advice)
    if "data.pkl" in names:
        return
    if any(member.endswith(".npy") for member in members):
        raise _is(path, "a NumPy archive", _CONVERT)
    if "model.weights.h5" in names:
        raise _is(path, "a Keras model", _CONVERT)
    if any(name.startswith("serialized_exported_program") or name.endswith(".pt2") for name in names) or any(
        member.endswith("archive_format") for member in members
    ):
        raise _is(path, "a program of torch.export", "save the network's state_dict() instead")
    shown = ", ".join(sorted(names - {""})[:3]) or "nothing"
    raise _is(path, f"a zip archive that torch.save did not write (it holds {shown})", _UNPACK)


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    """Whether it is a whole .safetensors file. Raises WeightsError for one that is cut short."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or length > 10**8:
        return False
    needed = 8 + length
    if needed <= size:
        with path.open("rb") as file:
            file.seek(8)
            try:
                header = json.loads(file.read(length))
                ends = [value["data_offsets"][1] for key, value in header.items() if key != "__metadata__"]
                needed += max(ends, default=0)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError):
                return False
    if needed > size:
        raise WeightsError(
            f"{path}: not a readable .safetensors file (cut short: it has {size:,} of {needed:,} bytes or "
            f"more); {_AGAIN}"
        )
    return True


def _require_no_text(path: Path, head: bytes, size: int) -> None:
    """Raises WeightsError for a web page, a JSON file, or another text."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.lower().startswith(_PAGES):
        advice = (
            "it was saved from an address that shows a page: download the file itself, and look at its size"
        )
        raise _is(path, "a web page", advice)
    if text.startswith((b"{", b"[")):
        _require_no_index(path)
    printable = set(string.printable.encode())
    if size < 2000 and set(head) <= printable and not head.startswith((b"(", b"]")):
        words = " ".join(head.decode("ascii").split())[:60]
        raise _is(path, f"a text ({words!r})", _AGAIN)


def _require_no_index(path: Path) -> None:
    """Raises WeightsError for JSON: the index of a model in several files, or anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return
    if isinstance(content, dict) and isinstance(content.get("weight_map"), dict):
        parts = sorted({str(part) for part in content["weight_map"].values()})
        command = (
            "{k: v for part in PARTS for k, v in safetensors.torch.load_file(part).items()}"
            if parts and parts[0].endswith(".safetensors")
            else "{k: v for part in PARTS for k, v in torch.load(part).items()}"
        )
        advice = f"join them in PyTorch: torch.save({command}, 'weights.pth')"
        raise _is(path, f"the index of a model in {len(parts)} files ({', '.join(parts[:2])}, …)", advice)
    raise _is(path, f"a JSON file ({' '.join(json.dumps(content).split())[:60]})", "give the weights file")
