"""Files of weights: read from the disk or from the Hugging Face Hub, and written."""

from pathlib import Path
from typing import TypeAlias

import numpy as np

from dpanet_jax import paths
from dpanet_jax.interop.errors import WeightsError
from dpanet_jax.interop.kinds import kind_of, require_no_folder
from dpanet_jax.interop.pickles import read_torch

# A local path, or an address in a bucket or on the Hub.
Source: TypeAlias = paths.PathLike
HUB = "hf://"
DEFAULT_FILE = "model.safetensors"
# PyTorch-Encoding and DANet save theirs as .pth.tar, which is no archive, PyTorch's tutorials as .tar; .bin
# is the Hub's, and .ckpt Lightning's.
_PICKLES = (".pth", ".pt", ".pth.tar", ".tar", ".bin", ".ckpt")


def read_state_dict(path: Source) -> dict[str, np.ndarray]:
    """{name: array} of a weights file; half precision becomes float32. WeightsError where it is not one.

    `path` is what `resolve` takes: a .safetensors file, or one of PyTorch's (.pth, .pt, .bin, .ckpt, .tar),
    which needs PyTorch and is read with weights_only=True. Which of them it is, its content says. A training
    checkpoint's weights are those under `state_dict`, `model` or the like.
    """
    return read(path)[0]


def read(path: Source) -> tuple[dict[str, np.ndarray], list[str]]:
    """`read_state_dict`, and the lines that its reader is to be told."""
    file = resolve(path)
    require_no_folder(file)
    if not file.is_file():
        raise WeightsError(f"{file}: there is no such file")
    kind = kind_of(file)
    if kind == "unknown":
        require_weights_suffix(file)
    if kind == "safetensors" or (kind == "unknown" and file.suffix == ".safetensors"):
        return _read_safetensors(file), []
    return read_torch(file)


def write_state_dict(state_dict: dict[str, np.ndarray], path: Source) -> None:
    """Writes a .safetensors file, whole or not at all; one that is there is replaced.

    Raises WeightsError where `require_writable` does.
    """
    from safetensors.numpy import save_file

    require_writable(path)
    # The format's writer takes an array's memory as it lies, in whatever order.
    arrays = {name: np.ascontiguousarray(value) for name, value in state_dict.items()}
    with paths.replacing(paths.anywhere(path)) as unfinished:
        save_file(arrays, unfinished, metadata={"format": "pt"})


def require_writable(path: Source) -> None:
    """Raises WeightsError where a state dict cannot be written to `path`: its suffix, or no such folder."""
    file = paths.anywhere(path)
    if file.suffix != ".safetensors":
        raise WeightsError(f"{file}: weights are written to a file that ends in .safetensors")
    if isinstance(file, paths.Remote):
        paths.require_writable(file.parent)
    elif not file.parent.is_dir():
        raise WeightsError(f"{file}: there is no folder {file.parent}")
    if file.is_dir():
        raise WeightsError(f"{file}: is a folder")


def require_weights_suffix(path: Source) -> None:
    """Raises WeightsError for a file that is of no known kind by its name."""
    if not str(path).endswith((".safetensors", *_PICKLES)):
        raise WeightsError(f"{path}: a weights file ends in .safetensors, {', '.join(_PICKLES)}")


def resolve(path: Source) -> Path:
    """A local path, absolute; of an address in a bucket, and of hf://OWNER/NAME[@REVISION][/FILE], the copy.

    FILE is model.safetensors where none is given, and may be in a folder. The file is downloaded where the
    Hub's cache has no newer one, which HF_HOME places; without a network the cached one serves. Raises
    WeightsError where huggingface_hub is not installed, and for an address that is malformed, leads
    nowhere, or cannot be reached.
    """
    if not str(path).startswith(HUB):
        file_there = paths.anywhere(path)
        if isinstance(file_there, paths.Remote) and not file_there.is_file():
            raise WeightsError(f"{file_there}: there is no such file")
        return paths.fetched(file_there)
    owner, name, revision, file = parse_address(str(path))
    require_weights_suffix(f"{HUB}{owner}/{name}/{file}")
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise WeightsError(f"{path}: needs huggingface_hub: pip install huggingface_hub") from error
    try:
        return Path(hf_hub_download(f"{owner}/{name}", file, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        reason = _words(error.__cause__ or error)
        raise WeightsError(
            f"{path}: is not in the cache, and the Hub cannot be reached ({reason})"
        ) from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(f"{path}: the repository {owner}/{name} has no file {file}") from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"{path}: the repository {owner}/{name} has no revision {revision}") from error
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{path}: {owner} grants access on request: ask on the repository's page, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(f"{path}: there is no repository {owner}/{name}, or it is private") from error
    except errors.HFValidationError as error:
        raise WeightsError(f"{path}: {owner}/{name} is no name of a repository") from error
    except Exception as error:  # of whatever kind its HTTP client raises
        raise WeightsError(f"{path}: cannot be downloaded ({_words(error)})") from error


def parse_address(address: str) -> tuple[str, str, str | None, str]:
    """hf://OWNER/NAME[@REVISION][/FILE] → (owner, name, revision or None, file). WeightsError otherwise."""
    owner, _, rest = address.removeprefix(HUB).partition("/")
    name, slash, file = rest.partition("/")
    name, at, revision = name.partition("@")
    parts = [owner, name, *(file.split("/") if slash else ()), *([revision] if at else ())]
    if any(part in ("", ".", "..") for part in parts):
        raise WeightsError(f"{address}: an address on the Hub is hf://OWNER/NAME or hf://OWNER/NAME/FILE")
    return owner, name, revision or None, file or DEFAULT_FILE


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, KeyError, AttributeError) as error:  # the last two: an odd dtype
        raise WeightsError(f"{path}: not a readable .safetensors file ({error})") from error
    halves = (np.float16, ml_dtypes.bfloat16)
    return {name: a.astype(np.float32) if a.dtype in halves else a for name, a in arrays.items()}


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
