"""Which heights of images several devices can share."""

from collections.abc import Iterator
from typing import Any

import jax

from dpanet_jax import models
from dpanet_jax.config import ConfigError, Sections
from dpanet_jax.models.precision import computing_in
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.training.traced import equations

# Rows of a device in the trace; a multiple of every network's stride.
_ROWS = 64


def require_even_height(options: Sections) -> None:
    """Raises ConfigError where config.sharding.space devices cannot share the crops of a config evenly.

    Every map that the network convolves must give each device as many rows. XLA computes a wrong gradient of
    the kernel where only some of the devices have rows of their own (seen with JAX 0.10.2 and 0.11.2).
    """
    space, (height, _) = options.sharding.space, options.data.crop_size
    if space == 1:
        return
    model = models.build(2, **options.model)
    tall = _ROWS * space
    with computing_in(model.dtype):  # JAX warns of float64 elsewhere.
        trace = jax.make_jaxpr(lambda rng: init_variables(model, rng, (tall, _ROWS)))(jax.random.key(0))
    heights = {*_convolved(trace.jaxpr), tall}
    if uneven := sorted(rows for rows in heights if rows % space):
        raise ConfigError(
            f"config.sharding.space={space}: this network convolves maps of {uneven[0]} rows where the image"
            f" has {tall}, and {space} devices cannot share them evenly; set it to 1"
        )
    # Heights that are no part of the image's are of maps of a fixed size.
    multiple = space * (tall // min(rows for rows in heights if tall % rows == 0))
    if height % multiple:
        raise ConfigError(
            f"config.data.crop_size: {space} devices (config.sharding.space) cannot share {height} rows"
            f" evenly at every stride of the network; use a height that is a multiple of {multiple}"
        )


def _convolved(jaxpr: Any) -> Iterator[int]:
    """The heights of what the convolutions of a program take and give."""
    for equation, _ in equations(jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            yield equation.invars[0].aval.shape[numbers.lhs_spec[2]]
            yield equation.outvars[0].aval.shape[numbers.out_spec[2]]
