"""PyTorch's own files, read without running any of their code, and where the weights are in them.

A file names the classes and functions that its objects were made of. Those of tensors and numbers are used.
For any other class an empty dictionary stands in, which holds what the object held: so a training checkpoint
is read with its arguments and its history, and a whole network with its parameters, and nothing is imported.
"""

import _compat_pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from dpanet_jax.interop.advice import listed
from dpanet_jax.interop.errors import WeightsError

# Under which keys training programs save the weights, in the order in which they are looked for.
WEIGHTS_KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
    "generator",
    "student",
)
# The running average of the weights, beside them.
AVERAGE_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "teacher")
# What else there is, with tensors in it that are no weights.
_NO_WEIGHTS = (
    "optim",
    "sched",
    "scaler",
    "loss",
    "amp",
    "rng",
    "random",
    "lr",
    "callbacks",
    "loops",
    "hyper",
)
# No object of weights is made by these; what names one is a program.
_PROGRAMS = frozenset(
    "os posix nt sys subprocess shutil socket importlib runpy code pty ctypes pickle marshal webbrowser "
    "commands multiprocessing threading signal urllib http requests builtins.getattr builtins.setattr "
    "builtins.eval builtins.exec builtins.compile builtins.open builtins.__import__ builtins.globals "
    "builtins.input builtins.map builtins.filter builtins.delattr builtins.breakpoint operator".split()
)


def read_torch(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """A file of torch.save → ({name: array}, lines to be told). Half precision becomes float32.

    Raises WeightsError where PyTorch is not installed, for a file that names code to be run or cannot be
    read, and for one that holds no state dict.
    """
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading it needs PyTorch (pip install torch), or a .safetensors file instead"
        ) from error
    try:
        # PyTorch's own list of what is safe comes before these.
        stand_ins = sorted(_globals(path) - {_name_of(known) for known in _harmless()})
    except WeightsError:
        raise
    except Exception:  # A damaged file; what reads it below says how.
        stand_ins = []
    programs = [name for name in stand_ins if _is_program(name)]
    if programs:
        raise _unsafe(path, f"it names {programs[0]}, to be run")
    try:
        with torch.serialization.safe_globals([*_harmless(), *((_StandIn, name) for name in stand_ins)]):
            with path.open("rb") as file:  # By its name, PyTorch would go by its suffix.
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of whatever kind the unpickler trips over
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise _unsafe(path, reason) from error
    found = _found(content, torch.is_tensor)
    if found is None:
        raise WeightsError(_no_state_dict(path, content, stand_ins))
    weights, keys, notes = found
    said = [f"its weights are those under {'.'.join(keys)!r}{notes}"] if keys and notes else []
    return {name: _array(path, name, value) for name, value in weights.items()}, said


class _StandIn:
    """Takes the place of any class: what is made of it without arguments is an empty dictionary.

    That may be filled, as a dictionary of any class is. What is made with arguments, as the members of an
    enumeration are, may be a key.
    """

    def __new__(cls, *arguments: Any) -> Any:
        return object.__new__(cls) if arguments else OrderedDict()

    def __init__(self, *_: Any) -> None:
        pass


def _dictionary(*_: Any) -> Any:
    return OrderedDict()


def _list(*_: Any) -> Any:
    return []


def _harmless() -> list[Any]:
    """NumPy's arrays and numbers, as scores and some weights are, and Python's own; they run nothing."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"} | {
        type(np.dtype("S1")),
        type(np.dtype("U1")),
    }
    pairs = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((scalar, "scalar"), (array, "_reconstruct"))
    ]
    plain = [(kind, f"builtins.{kind.__name__}") for kind in (frozenset, int, float, str, bool, range, slice)]
    filled = [(_dictionary, "collections.defaultdict"), (_list, "collections.deque")]
    return [*pairs, *plain, *filled, np.dtype, np.ndarray, *dtypes]


def _name_of(known: Any) -> str:
    return str(known[1]) if isinstance(known, tuple) else f"{known.__module__}.{known.__qualname__}"


def _is_program(name: str) -> bool:
    return name in _PROGRAMS or name.partition(".")[0] in _PROGRAMS


def _globals(path: Path) -> set[str]:
    """The "module.name" of every class and function that a file names, by Python 3's names."""
    found = set()
    for pickled in _pickles(path):
        for opcode, value, _ in pickletools.genops(pickled):
            if opcode.name == "PROTO" and isinstance(value, int) and value > 2:
                advice = "save it anew, without pickle_protocol, or as .safetensors"
                raise WeightsError(
                    f"{path}: was saved with pickle_protocol={value}, which is not read; {advice}"
                )
            if opcode.name == "GLOBAL":
                module, _, name = str(value).partition(" ")
                if (module, name) in _compat_pickle.NAME_MAPPING:
                    module, name = _compat_pickle.NAME_MAPPING[module, name]
                elif module in _compat_pickle.IMPORT_MAPPING:
                    module = _compat_pickle.IMPORT_MAPPING[module]
                found.add(f"{module}.{name}")
    return found


def _pickles(path: Path) -> Iterator[IO[bytes] | bytes]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.rpartition("/")[2] == "data.pkl":
                    yield archive.read(member)
        return
    with path.open("rb") as file:  # Before PyTorch 1.6: a number, a version, the system, and the object.
        for _ in range(4):
            yield file


def _found(content: Any, is_tensor: Any, depth: int = 4) -> tuple[dict[str, Any], list[str], str] | None:
    """(the weights, the keys under which they are, words on the average beside them), or None."""
    content = _of_module(content)
    if isinstance(content, list | tuple) and depth:  # (model.state_dict(), optimizer.state_dict(), epoch)
        found = (_found(part, is_tensor, depth - 1) for part in content)
        return next((inner for inner in found if inner is not None), None)
    if not isinstance(content, Mapping) or not depth:
        return None
    for key in (*WEIGHTS_KEYS, *AVERAGE_KEYS):
        inner = _found(content.get(key), is_tensor, depth - 1)
        if inner is not None:
            return inner[0], [key, *inner[1]], inner[2] or _average_in_words(content, key)
    # The weights themselves, without what is no array, as a count of epochs; or parts of a network, each
    # under its own name: {"backbone": …, "head": …}.
    weights: dict[str, Any] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        if is_tensor(value) or isinstance(value, np.ndarray):
            weights[key] = value
        elif not key.lower().startswith(_NO_WEIGHTS):
            inner = _found(value, is_tensor, depth - 1)
            if inner is not None:
                weights.update({f"{key}.{name}": array for name, array in inner[0].items()})
    return (weights, [], "") if weights else None


def _average_in_words(content: Mapping[str, Any], key: str) -> str:
    others = [other for other in AVERAGE_KEYS if other in content and other != key]
    if key in AVERAGE_KEYS:
        return ", a running average"
    if not others:
        return ""
    return f"; {others[0]!r} is there too and is not taken: to start from it, save it alone"


def _of_module(content: Any) -> Any:
    """The state dict of a whole network that was saved as an object; anything else as it is."""
    if isinstance(content, OrderedDict) and "_modules" in vars(content) and "_parameters" in vars(content):
        return dict(_module_leaves(content, ""))
    return content


def _module_leaves(module: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    held = vars(module) if isinstance(module, OrderedDict) else {}
    hidden = held.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, value in (held.get(kind) or {}).items():
            if value is not None and name not in hidden:
                yield prefix + name, value
    for name, child in (held.get("_modules") or {}).items():
        yield from _module_leaves(child, f"{prefix}{name}.")


def _array(path: Path, name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value.astype(np.float32) if value.dtype == np.float16 else value
    if value.is_meta:
        raise WeightsError(f"{path}: {name} has a shape and no values (device 'meta'): save the weights anew")
    if value.is_quantized:
        value = value.dequantize()
    if value.is_sparse:
        value = value.to_dense()
    if value.is_floating_point() and value.itemsize < 4:
        value = value.float()
    return np.asarray(value.detach().numpy(force=True))


def _unsafe(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{path}: not a file of weights that is safe to read ({reason}). Where you trust it, save its "
        f"weights alone, in PyTorch: {_resave(path)}"
    )


def _resave(path: Path) -> str:
    return (
        f"checkpoint = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        "torch.save(checkpoint['state_dict'], 'weights.pth'), with its own key, or model.state_dict()"
    )


def _no_state_dict(path: Path, content: Any, stand_ins: list[str]) -> str:
    message = f"{path}: holds no state dict (a dictionary of tensors)"
    shards = [name for name in stand_ins if name.startswith("torch.distributed")]
    if shards:
        return (
            f"{message} but {shards[0].rpartition('.')[2]}s, parts of several devices: save the whole "
            "weights (FSDP: get_model_state_dict with StateDictOptions(full_state_dict=True))"
        )
    if isinstance(content, Mapping) and content:
        keys = listed([str(key) for key in content], "keys")
        return f"{message}; its keys are {keys}: save model.state_dict() alone"
    return message
