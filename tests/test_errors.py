"""The base of the package's errors: their words, their exit status, and that all of them have it."""

import importlib
import importlib.util
import inspect
import pickle
import pkgutil
from pathlib import Path

import jax
import numpy as np
import pytest

import dpanet_jax
from dpanet_jax.checkpoint import Damaged
from dpanet_jax.data.listing import DataError
from dpanet_jax.data.location import DatasetNotFound
from dpanet_jax.errors import DPANetError, UsageError, is_out_of_memory

# PyTorch is not installed everywhere.
NEED_TORCH = ("dpanet_jax.compare", "dpanet_jax.interop.twin")


def test_the_words_are_what_was_said():
    class Missing(DPANetError, KeyError):
        pass

    class Absent(DPANetError, FileNotFoundError):
        pass

    assert str(Missing("no such key")) == "no such key"  # KeyError's own would be in quotes
    assert str(Absent("no such file")) == "no such file"
    assert str(DPANetError()) == ""
    assert isinstance(Absent("x"), OSError)


def test_a_request_that_is_wrong_has_a_status_of_its_own():
    assert DPANetError("x").exit_status == 1
    assert UsageError("x").exit_status == 2
    assert isinstance(UsageError("x"), ValueError) and isinstance(UsageError("x"), DPANetError)


def test_every_error_of_the_package_has_the_base():
    modules = [dpanet_jax, *_modules()]
    errors = {
        cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, BaseException) and cls.__module__.startswith("dpanet_jax")
    }
    assert DPANetError in errors and len(errors) > 5
    assert not {cls.__qualname__ for cls in errors if not issubclass(cls, DPANetError)}


def _modules():
    without_torch = importlib.util.find_spec("torch") is None
    for info in pkgutil.walk_packages(dpanet_jax.__path__, "dpanet_jax."):
        if not info.name.endswith("__main__") and not (without_torch and info.name.startswith(NEED_TORCH)):
            yield importlib.import_module(info.name)


@pytest.mark.parametrize(
    "error",
    [
        DataError("source", ["one", "two"]),
        Damaged(Path("checkpoints/3"), "cut short"),
        DatasetNotFound("streets is not prepared"),
        DPANetError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_out_of_a_worker_process_as_it_was(error: DPANetError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (np.exceptions.AxisError("memory"), False),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no"), False),
        (ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device"), False),
    ],
    ids=str,
)
def test_what_says_that_memory_ran_out(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one


def test_what_no_terminal_can_show_is_written_out() -> None:
    """Bytes of a file, an escape sequence, and a name that is not of UTF-8."""
    name = b"a\xff.png".decode("utf-8", "surrogateescape")
    error = DPANetError(f"{name}: \x1b[31mred\x00, “grün” 路\n  and more")
    assert str(error) == "a\\udcff.png: \\x1b[31mred\\x00, “grün” 路\n  and more"
    str(error).encode("utf-8")
