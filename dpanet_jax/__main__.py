"""The command line: `python -m dpanet_jax VERB --flag=value …`; each verb is a module of `verbs`."""

import sys
import traceback
from types import ModuleType

from absl import logging

from dpanet_jax import hosts, huge_pages
from dpanet_jax.command_line import parse, say
from dpanet_jax.errors import UsageError
from dpanet_jax.options import did_you_mean
from dpanet_jax.verbs import compare, evaluate, export_torch, import_torch, plan, predict, prepare, train
from dpanet_jax.version import version_line

VERBS: dict[str, ModuleType] = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "export-torch": export_torch,
    "import-torch": import_torch,
    "plan": plan,
    "compare": compare,
}


def main(argv: list[str] | None = None) -> int:
    """Runs one verb. Returns 0; 1 where the work failed and 2 where the request was wrong.

    An error of the package's own kind, or of the operating system, is one line on stderr. Any other is a
    mistake of the package and is raised. Where one of several hosts fails alone, its process ends here.
    """
    # Orbax logs what it raises too, and warns of what is as it should be.
    logging.set_verbosity(logging.FATAL)
    try:
        _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return 0
    except SystemExit:
        raise
    except BaseException as error:
        status = say(error)
        fails_alone = hosts.count() > 1 and not getattr(error, "agreed", False)
        if fails_alone and status is None:
            traceback.print_exc()
        if fails_alone:
            hosts.leave(1 if status is None else status)
        if status is None:
            raise
        return status


def _run(argv: list[str]) -> None:
    if not argv:
        raise UsageError(f"a verb is missing\n{_usage()}")
    if argv[0] in ("-h", "--help", "help"):
        print(_usage())
    elif argv[0] == "--version":
        print(version_line())
    elif argv[0] not in VERBS:
        raise UsageError(f"{argv[0]!r} is not a verb: {', '.join(VERBS)}{did_you_mean(argv[0], VERBS)}")
    else:
        verb = VERBS[argv[0]]
        verb.run(parse(argv[0], verb.WORDS, argv[1:], verb.define))


def _is_compiling() -> bool:
    """Whether a run failed while its step was being compiled, which nothing can interrupt."""
    ahead = sys.modules.get("dpanet_jax.training.ahead")
    return ahead is not None and ahead.is_busy()


def _usage() -> str:
    lines = [f"  {verb:14}{module.WORDS}" for verb, module in VERBS.items()]
    return "\n".join(
        [
            "usage: python -m dpanet_jax VERB --flag=value …",
            *lines,
            "",
            "python -m dpanet_jax VERB --help lists a verb's flags; --version says which version this is.",
            "DPANET_TRACEBACK=1 shows where an error came from.",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:2] and VERBS.get(sys.argv[1]) in (train, evaluate, predict):
        huge_pages.start_again_with_them()
    status = main()
    if _is_compiling():
        hosts.leave(status)
    sys.exit(status)
