"""How Sphinx builds the site: `python -m sphinx -W --keep-going -b html docs docs/_build/html`.

Packages: those of the extra `docs` (sphinx, myst-nb, sphinx-book-theme), and dpanet_jax itself, which is
imported for its docstrings. The build fetches nothing from the network.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

import dpanet_jax  # noqa: E402
from dpanet_jax import config_reference, options, paths  # noqa: E402

project = "dpanet_jax"
author = "The dpanet_jax developers"
copyright = author
version = release = dpanet_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "_generated/*.md", "**/.ipynb_checkpoints"]
# Docstrings write code between single backticks.
default_role = "code"
nitpicky = False

# The notebook is stored with its outputs; tests/docs executes it.
nb_execution_mode = "off"
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # A generated page may begin below its parent's level.

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # Flax's and Python's own docstrings say nothing of this package.
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_mock_imports = [name for name in ("torch", "matplotlib") if importlib.util.find_spec(name) is None]

html_theme = "sphinx_book_theme"
html_title = "dpanet_jax"
html_show_copyright = False
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
}

# ---- Pages made from the code: the tables of options, and the reference.

ROOMS = {
    "models": "The networks: pooling, attention, backbones, heads, and the registry of them.",
    "data": "Data sets, what their ids mean, and batches of them.",
    "streets": "The program that draws street scenes.",
    "interop": "Weights from and to PyTorch.",
    "evaluation": "Protocols, figures, pictures, and trained models.",
    "training": "A run, from its config to its last checkpoint.",
    "analysis": "What a training step costs, and would cost on machines that are not there.",
    "compare": "The numbers, held against PyTorch's.",
}


def _modules(room: str) -> list[str]:
    """The public modules of a room, its own first."""
    package = importlib.import_module(room)
    names = [module.name for module in pkgutil.walk_packages(package.__path__, room + ".")]
    others = sorted(name for name in names if not name.rpartition(".")[2].startswith("_"))
    return [room, *(name for name in others if name != "dpanet_jax.evaluation.trained")]  # Beside load().


def _module_section(name: str) -> str:
    directive = [
        "```{eval-rst}",
        f".. automodule:: {name}",
        "   :members:",
        "   :ignore-module-all:",
        "   :special-members: __call__",
        "   :show-inheritance:",
        "```",
    ]
    return "\n".join([f"## `{name.removeprefix('dpanet_jax.')}`", "", *directive, ""])


def _page(title: str, words: str, modules: list[str]) -> str:
    return "\n".join([f"# {title}", "", words, "", *map(_module_section, modules)])


def _write_reference(folder: Path) -> None:
    trained = ["dpanet_jax", "dpanet_jax.evaluation.trained"]
    pages = {"load": _page("dpanet_jax", "What most programs need.", trained)}
    for room, words in ROOMS.items():
        pages[room] = _page(f"dpanet_jax.{room}", words, _modules(f"dpanet_jax.{room}"))
    others = [m.name for m in pkgutil.iter_modules(dpanet_jax.__path__, "dpanet_jax.") if not m.ispkg]
    others = [name for name in others if not name.endswith("__main__")]
    pages["bottom"] = _page("The bottom", "The modules that several rooms need.", others)
    for name, text in pages.items():
        paths.write_text(folder / f"{name}.md", text)
    contents = "\n".join(["```{toctree}", ":maxdepth: 1", "", *pages, "```"])
    index = f"# Reference\n\nMade from the docstrings of the package, a page for each room.\n\n{contents}\n"
    paths.write_text(folder / "index.md", index)


def _write_options(folder: Path) -> None:
    paths.write_text(folder / "kinds.md", config_reference.kinds())
    paths.write_text(folder / "options.md", config_reference.keys())


_write_options(DOCS / "_generated")
_write_reference(DOCS / "_generated" / "api")

# ---- Docstrings are plain text with code in backticks. Here they become what Sphinx reads.


def _escaped(text: str) -> str:
    """Plain text as reStructuredText: only `code` in backticks is markup."""
    parts = re.split(r"`([^`]+)`", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"\\ ``{' '.join(part.split())}``\\ "
        else:
            part = re.sub(r"([\\*|`])", r"\\\1", part)
            parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", part)
    return "".join(parts)


def _paragraph(lines: list[str], arguments: frozenset[str]) -> list[str]:
    """One paragraph: a block that is indented or in columns as it stands, `argument: …` as a list."""
    if all(line.startswith("    ") for line in lines) or any("   " in line.strip() for line in lines):
        return ["::", "", *("    " + line for line in lines), ""]
    if lines[0].partition(":")[0] not in arguments:
        return [*_escaped("\n".join(lines)).split("\n"), ""]
    items: list[str] = []
    for line in lines:
        name, _, words = line.partition(":")
        if name in arguments:
            items.append(f"- ``{name}``: {_escaped(words.strip())}")
        else:
            items[-1] += " " + _escaped(line.strip())
    return [*items, ""]


def _arguments(obj: Any) -> frozenset[str]:
    if inspect.isclass(obj) and dataclasses.is_dataclass(obj):
        return frozenset(field.name for field in dataclasses.fields(obj))
    try:
        return frozenset(inspect.signature(obj).parameters)
    except (TypeError, ValueError):  # A module, or a property.
        return frozenset()


def _docstring(app: Any, what: str, name: str, obj: Any, _: Any, given: list[str]) -> None:
    lines = given
    if inspect.ismodule(obj):
        lines = (obj.__doc__ or "").split("\n")  # As written: Sphinx takes away what indents a whole example.
    paragraphs = re.split(r"\n\s*\n", textwrap.dedent("\n".join(lines)).strip("\n"))
    arguments = _arguments(obj)
    made = [line for text in paragraphs if text.strip() for line in _paragraph(text.split("\n"), arguments)]
    if inspect.isclass(obj) and dataclasses.is_dataclass(obj):
        made += _options_of(obj)
    given[:] = made


def _options_of(cls: type) -> list[str]:
    lines = []
    for key, declared in options.declared(cls).items():
        choices = f" One of {', '.join(map(repr, declared.choices))}." if declared.choices else ""
        words = _escaped(f"{declared.option.words}.{choices}")
        lines.append(f"- ``{key}``, {declared.default!r}: {words}")
    return ["Options, and their defaults:", "", *lines, ""] if lines else []


def _signature(app: Any, what: str, name: str, obj: Any, _: Any, signature: str, returned: str) -> Any:
    """A dataclass's fields without their types: an option's type is listed with its words instead."""
    if not (inspect.isclass(obj) and dataclasses.is_dataclass(obj)):
        return None
    names = [field.name for field in dataclasses.fields(obj) if field.init]
    return f"({', '.join(name for name in names if name not in ('parent', 'name'))})", None


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, _: Any) -> bool | None:
    """The fields of a NamedTuple: Python's own words for them say only their number."""
    return True if (getattr(obj, "__doc__", "") or "").startswith("Alias for field number") else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
