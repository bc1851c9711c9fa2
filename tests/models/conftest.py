"""What the tests of the models share."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from dpanet_jax import models
from dpanet_jax.options import OptionError


@pytest.fixture(scope="session")
def random_variables() -> Callable[..., dict[str, Any]]:
    """A function: a module and the arguments of its call → variables filled by NumPy, nothing compiled.

    Kernels keep their input's scale, batch norms' scales and variances are near 1, and no scalar is 0.
    """

    def fill(path, leaf, rng):
        name = path[-1].key
        values = rng.normal(size=leaf.shape)
        if name == "kernel":
            values *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            values = 1 + 0.2 * np.tanh(values)
        elif leaf.shape == ():
            values = np.asarray(0.7)
        else:
            values *= 0.1
        return values.astype(leaf.dtype)

    def make(module, *args, seed=0, **kwargs):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        shapes = jax.eval_shape(lambda keys: module.init(keys, *args, **kwargs), keys)
        rng = np.random.default_rng(seed)
        return jax.tree_util.tree_map_with_path(lambda path, leaf: fill(path, leaf, rng), shapes)

    return make


@pytest.fixture(scope="session")
def assert_names() -> Callable[..., None]:
    """A function: an error, (option, its wrong value), and what must be said of it: choices, or a bound."""

    def check(error: Exception, wrong: tuple[str, Any], words: Iterable[Any]) -> None:
        assert isinstance(error, OptionError) and "\n" not in str(error)
        name, value = wrong
        said, separator, rest = str(error).partition(f"{name}={value!r}")
        assert separator and not said, error
        assert all(str(word) in rest for word in words), error

    return check


@pytest.fixture(scope="session")
def equations() -> Callable[..., list[Any]]:
    """A function: another one and its arguments → every equation of its jaxpr, at whatever depth."""

    def below(jaxpr: Any) -> Iterator[Any]:
        for equation in jaxpr.eqns:
            yield equation
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from below(inner)

    return lambda function, *args: list(below(jax.make_jaxpr(function)(*args).jaxpr))


@pytest.fixture
def registries() -> Iterator[None]:
    """What the test registers is gone afterwards."""
    every = (models.BACKBONES, models.HEADS, models.NETWORKS)
    before = [dict(registry) for registry in every]
    yield
    for registry, names in zip(every, before, strict=True):
        registry.clear()
        registry.update(names)
