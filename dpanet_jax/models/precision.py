"""The types that a network computes in, and holds its parameters in."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp


def param_dtype_for(dtype: Any) -> str:
    """The type of the parameters of a network that computes in `dtype`: float64 for float64, else float32."""
    return "float64" if jnp.dtype(dtype) == jnp.float64 else "float32"


def computing_in(dtype: Any) -> contextlib.AbstractContextManager[Any]:
    """A context in which arrays of `dtype` stay what they are: JAX makes float32 of float64 outside of one.

    It holds for the thread that enters it. What is compiled for other types is the same in it and outside.
    """
    return jax.enable_x64(True) if jnp.dtype(dtype) == jnp.float64 else contextlib.nullcontext()
