"""What the tests of the models share."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def random_variables():
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
