"""The equations of a traced program, those of the programs that it calls among them."""

from collections.abc import Iterator
from typing import Any


def equations(jaxpr: Any, turns: int = 1) -> Iterator[tuple[Any, int]]:
    """(equation, how often it runs) of a jaxpr that runs `turns` times. A `while` counts as one turn."""
    for equation in jaxpr.eqns:
        yield equation, turns
        inside = turns * (equation.params["length"] if equation.primitive.name == "scan" else 1)
        for inner in _inner(equation):
            yield from equations(inner, inside)


def _inner(equation: Any) -> list[Any]:
    """The programs that an equation runs: jaxprs, closed or open, among its parameters.

    Of a choice by platform (`jax.lax.platform_dependent`) it is the default, which is written as it is meant.
    """
    params = equation.params
    if params.get("branches_platforms"):
        return [params["branches"][-1].jaxpr]
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                found.append(item)
    return found
