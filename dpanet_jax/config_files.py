"""The configuration files that travel with the package: `--config=demo` is configs/demo.py."""

from pathlib import Path

from dpanet_jax import paths
from dpanet_jax.errors import UsageError
from dpanet_jax.options import did_you_mean

_PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """Where the files are: inside the package in a wheel, beside it in a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """The names that `find_config` knows, sorted."""
    return sorted(file.stem for file in config_folder().glob("*.py") if not file.stem.startswith("_"))


def find_config(name: str) -> str:
    """The absolute path of a configuration file, given by name (`demo`) or by path (`configs/mine.py`).

    What has a `/` in it or ends in .py is a path. Text after a colon is get_config's argument, and is kept.
    Raises UsageError where there is no such file, with the names that there are.
    """
    paths.local(name)  # Refuses an address such as gs://BUCKET/FILE.py.
    file, colon, argument = name.partition(":")
    if "/" in file or file.endswith(".py"):
        path = paths.local(file)
        if not path.is_file():
            raise UsageError(f"--config={name}: there is no such file")
    else:
        names = config_names()
        if file not in names:
            raise UsageError(
                f"--config={name}: there is no such configuration; give a path or one of "
                f"{', '.join(names)}{did_you_mean(file, names)}"
            )
        path = config_folder() / f"{file}.py"
    return f"{path}{colon}{argument}"
