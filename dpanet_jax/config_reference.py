"""The tables of the docs: every key of the config, and the kinds of keys, in Markdown."""

from dpanet_jax import config, models
from dpanet_jax.options import KINDS, Declared, family, merged


def keys() -> str:
    """Every key with its default, values and meaning: the tables of the docs, in Markdown."""
    lines: list[str] = []
    current = None
    for key, option in config.all_keys().items():
        section = key.rpartition(".")[0]
        if section != current:
            current = section
            title = f"config.{section}" if section else "config"
            lines += [
                "",
                f"### `{title}`",
                "",
                "| key | default | values | what it does | kind |",
                "| --- | --- | --- | --- | --- |",
            ]
        default = f"`{option.default!r}`"
        cells = (f"`{key}`", default, _values_in_words(option), _words_of(key, option), option.option.kind)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines[1:]) + "\n"


def kinds() -> str:
    """The kinds of keys, what a run that goes on may do with them, and which keys they are, in Markdown."""
    lines = ["| kind | what it means | keys |", "| --- | --- | --- |"]
    for kind, words in KINDS.items():
        named = ", ".join(f"`config.{key}`" for key in config.keys_of(kind))
        keys = "all others" if kind == "learned" else named
        lines.append(f"| {kind} | {words} | {keys} |")
    return "\n".join(lines) + "\n"


def _values_in_words(option: Declared) -> str:
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    return option.values_in_words()


def _words_of(key: str, option: Declared) -> str:
    words = option.option.words
    return words if not key.startswith("model.") else words + _users_in_words(option.key)


def _users_in_words(key: str) -> str:
    """Which heads or backbones have an option, where not all of them do."""
    for registry in (models.HEADS, models.BACKBONES):
        users = [name for name, cls in registry.items() if key in merged(family(cls))]
        if users and len(users) < len(registry):
            return f" ({', '.join(users)})"
    return ""
