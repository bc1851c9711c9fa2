"""The base class of every error that the package raises for its user."""

from typing import Any


class DPANetError(Exception):
    """Something that a user can mend: its text is one clear line, or a list of files with what is wrong.

    The command line prints the text and exits with `exit_status`. Any other exception, but the operating
    system's, is a mistake of the package, and shows its traceback.
    """

    exit_status = 1
    # Whether every process of a run raises it, or one of the same cause: then all end together.
    agreed = False

    # KeyError's and OSError's own texts quote or number what was said; a subclass of either says it plainly.
    def __str__(self) -> str:
        return printable(str(self.args[0])) if self.args else ""

    # As it is: a subclass may be made of other arguments than its text, and worker processes send errors.
    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)


def printable(text: str) -> str:
    """The text with its control characters, and what no terminal can show, written as Python would.

    Names and contents of files come into messages as they are, whatever they hold. Line ends stay.
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _rebuilt(kind: type[DPANetError], args: tuple[Any, ...], attributes: dict[str, Any]) -> DPANetError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class UsageError(DPANetError, ValueError):
    """The request is wrong, before any work: a flag, a path, a key or a value. The text says how."""

    exit_status = 2


class OutOfMemory(DPANetError):
    """The memory of a device, or of the host, does not suffice; the text says for what, and what to lower."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's or NumPy's own, or that of JAX's runtime."""
    return isinstance(error, MemoryError) or (
        # By name, for this module must not import JAX.
        type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
        and ("RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower())
    )
