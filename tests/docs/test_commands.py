"""What the pages tell people to type exists: verbs, flags, options, and configs that pass the checks."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from dpanet_jax.__main__ import main
from dpanet_jax.config import check_config, default_config, flatten

COMMAND = re.compile(r"python -m dpanet_jax (\S.*)")
# Not of the pages' own making: what changed between versions names options that have gone.
HISTORY = "CHANGELOG.md"


def commands(pages: dict[str, str]) -> list[tuple[str, list[str]]]:
    """(page, words after `python -m dpanet_jax`) of every command in a block of code."""
    found = []
    for page, text in pages.items():
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = COMMAND.search(line)
                if command:
                    found.append((page, shlex.split(command[1], comments=True)))
    return found


def flags_of(verb: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The flags that `--help` lists."""
    with pytest.raises(SystemExit):
        raise SystemExit(main([verb, "--help"]))
    return set(re.findall(r"^\s*--(?:\[no\])?([\w]+)", capsys.readouterr().out, re.MULTILINE))


def test_every_verb_and_flag_exists(pages: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    flags: dict[str, set[str]] = {}
    unknown = []
    for page, (verb, *words) in commands(pages):
        if verb in ("VERB", "--version"):
            continue
        if verb not in flags:
            flags[verb] = flags_of(verb, capsys)
        for word in words:
            name = re.split(r"[=.]", word.removeprefix("--"))[0]
            if not word.startswith("--") or name not in flags[verb]:
                unknown.append(f"{page}: {verb} {word}")
    assert not unknown
    assert flags.keys() >= {"prepare", "train", "evaluate", "predict", "export-torch", "plan", "compare"}


def test_every_flag_in_the_text_is_one_of_a_verb(
    pages: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    verbs = ("prepare", "train", "evaluate", "predict", "export-torch", "plan", "compare")
    known = {"version", "help", "VERB", "flag", "compare"}  # `--compare` is ./scripts/demo's.
    known |= {flag for verb in verbs for flag in flags_of(verb, capsys)}
    known |= {"keep-going", "fail-on-warning", "quiet"}  # Sphinx's.
    for page in ("README.md", "docs/getting_started.md", "docs/your_own_data.md", "docs/results.md"):
        names = re.findall(r"(?<![\w-])--([a-zA-Z][\w-]*)", pages[page])
        assert set(names) <= known, page


def test_every_option_exists(pages: dict[str, str]) -> None:
    keys = flatten(default_config())
    sections = {key.rpartition(".")[0] for key in keys}
    unknown, seen = [], 0
    for page, text in pages.items():
        if page == HISTORY:
            continue
        for name in re.findall(r"(?<![\w/.])(?:--)?config\.([a-z_]+(?:\.[a-z_]+)*)", text):
            if name in ("py", "json"):
                continue
            seen += 1
            if name not in keys and name not in sections:
                unknown.append(f"{page}: config.{name}")
    assert not unknown
    assert seen > 50


def test_the_training_commands_pass_the_checks(root: Path, pages: dict[str, str]) -> None:
    checked = 0
    for page, (verb, *words) in commands(pages):
        if verb not in ("train", "plan", "compare"):
            continue
        values = dict(word.removeprefix("--").split("=", 1) for word in words)
        file = root / values["config"]
        if not file.is_file():  # configs/mine.py is the reader's copy of this one.
            assert values["config"] in ("configs/mine.py", "demo"), page
            file = root / "configs" / ("demo.py" if values["config"] == "demo" else "folder.py")
        config = _config(file)
        for key, value in values.items():
            # Weights and modules of the reader are not here, and neither is what these would register.
            if key.startswith("config.") and "imports" not in " ".join(values):
                _set(config, key.removeprefix("config."), value)
        check_config(config)
        checked += 1
    assert checked >= 8


def _config(file: Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def _set(config: ConfigDict, key: str, text: str) -> None:
    if key == "model.pretrained":  # A file of the reader's.
        return
    parent, _, name = key.rpartition(".")
    section = config[parent] if parent else config
    section[name] = text if isinstance(section[name], str) else ast.literal_eval(text)
