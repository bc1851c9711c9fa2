"""How a verb's flags are read from the command line, and what is said of those that are wrong."""

import os
import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import config_flags

from dpanet_jax import config as config_lib
from dpanet_jax import hosts
from dpanet_jax.config_files import config_names, find_config
from dpanet_jax.errors import DPANetError, UsageError, is_out_of_memory, printable
from dpanet_jax.options import did_you_mean


def parse(
    verb: str, words: str, argv: list[str], define: Callable[[flags.FlagValues, list[str]], None]
) -> flags.FlagValues:
    """This verb's flags from the command line; UsageError for any other, and for a stray word.

    `words` say what the verb is for, and `define` defines its flags. Where help is asked for, it is printed
    and SystemExit raised.
    """
    asked_for_help = any(word in ("-h", "--help") for word in argv)
    argv = [_with_config_file(word) for word in argv] if not asked_for_help else argv
    values = flags.FlagValues()
    define(values, [] if asked_for_help else argv)
    if asked_for_help:
        print(f"usage: python -m dpanet_jax {verb} …\n  {words}\n")
        for name in sorted(values):
            print(f"  --{name}: {values[name].help}")
        raise SystemExit(0)
    try:
        rest = values([f"dpanet_jax {verb}", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        near = did_you_mean(error.flagname, list(values))
        raise UsageError(f"--{error.flagname} is not a flag of {verb}{near}") from error
    except (DPANetError, flags.Error):
        raise
    except AttributeError as error:  # ml_collections' word for a key that the config lacks
        raise UsageError(_unknown_key(argv, error)) from error
    except Exception as error:  # Whatever the user's own file raises is the user's to mend.
        raise UsageError(f"--config: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if rest:
        raise UsageError(f"{rest[0]!r} was not understood: flags are written --flag=value")
    return values


def _with_config_file(word: str) -> str:
    """`--config=demo` → `--config=PATH/demo.py`; any other word as it is."""
    flag, is_given, value = word.partition("=")
    return f"{flag}={find_config(value)}" if flag == "--config" and is_given and value else word


def _unknown_key(argv: list[str], error: AttributeError) -> str:
    known = config_lib.all_keys()
    for word in argv:
        key = word.removeprefix("--config.").split("=")[0]
        if word.startswith("--config.") and key not in known:
            return f"config.{key} is not a key of the config{did_you_mean(key, known)}"
    return f"--config: {error}"


def require_flags(values: flags.FlagValues, *names: str) -> None:
    """Raises UsageError for the first of the flags that was not given."""
    for name in names:
        if not values[name].value:
            raise UsageError(f"--{name} is missing (--help lists the flags)")


def string_flag(values: flags.FlagValues, name: str, words: str, default: str | None = None) -> None:
    """Defines a flag that takes a text."""
    flags.DEFINE_string(name, default, words, flag_values=values)


def config_flag(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines `--config` and the flags `--config.KEY` that `argv` holds."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        f"a file with get_config(), or one of {', '.join(config_names())}; "
        "--config.KEY=VALUE changes one value",
        flag_values=values,
        sys_argv=["dpanet_jax", *argv],
    )


def host_flags(values: flags.FlagValues) -> None:
    """Defines the flags that join several processes to one run."""
    string_flag(values, "coordinator", "of several hosts: HOST:PORT of process 0, the same on all")
    for name, words in (
        ("num_processes", "how many processes there are; usually one a host"),
        ("process_id", "which one this is, from 0 on"),
    ):
        flags.DEFINE_integer(name, None, words, flag_values=values)
    flags.DEFINE_integer(
        "join_timeout", 300, "seconds to wait for the other hosts", lower_bound=1, flag_values=values
    )


def join_hosts(values: flags.FlagValues, cluster: bool) -> None:
    """Joins the hosts that the flags name, or with `cluster` those that JAX finds; alone, does nothing.

    UsageError where some of the flags are missing, and as `hosts.join` and `hosts.join_cluster`.
    """
    if asked := asked_hosts(values):
        hosts.join(**asked)
    elif cluster:
        hosts.join_cluster(values.join_timeout)


def asked_hosts(values: flags.FlagValues) -> dict[str, Any]:
    """The arguments of `hosts.join` that the flags give; {} where they name no hosts."""
    names = ("coordinator", "num_processes", "process_id")
    given = [name for name in names if values[name].value is not None]
    if given and len(given) < len(names):
        missing = " and ".join(f"--{name}" for name in names if name not in given)
        raise UsageError(f"--{given[0]} is given without {missing}: all three make one run of several hosts")
    if not given:
        return {}
    return {"timeout": values.join_timeout, **{name: values[name].value for name in names}}


def say(error: BaseException) -> int | None:
    """Prints the line of an error that a user can mend; returns the exit status, None of any other error."""
    if isinstance(error, BrokenPipeError):
        # The reader of the output has closed it, as `head` does. Nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, KeyboardInterrupt):
        print("dpanet_jax: interrupted", file=sys.stderr)
        return 130
    if os.environ.get("DPANET_TRACEBACK"):
        return None
    if isinstance(error, DPANetError | OSError | flags.Error):
        print(f"dpanet_jax: {_words(error)}", file=sys.stderr)
        return error.exit_status if isinstance(error, DPANetError) else 1 + isinstance(error, flags.Error)
    if is_out_of_memory(error):
        print(f"dpanet_jax: the memory does not suffice ({_words(error)[:300]})", file=sys.stderr)
        return 1
    return None


def _words(error: BaseException) -> str:
    """What is said of an error: the package's own as written (DataError lists files), others on one line."""
    if isinstance(error, DPANetError):
        return str(error)
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())}")
