"""What one training step costs: compiled for devices that may not be there, and measured from the program."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpanet_jax.analysis import hlo
from dpanet_jax.analysis.hlo import Collective
from dpanet_jax.config import Sections
from dpanet_jax.training import build, layout
from dpanet_jax.training.state import TrainState
from dpanet_jax.training.traced import equations


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device while the step runs.

    temporaries: activations kept for the backward pass, gradients, and room to work. padding: what the
    device's layout adds to the arrays that the step is given. results: outputs that take no input's place.
    """

    parameters: int
    statistics: int
    optimizer: int
    batch: int
    padding: int
    temporaries: int
    results: int
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Cost:
    """One step, on each device.

    flops: operations as the compiler counts them; products: those of convolutions and matrix products alone,
    as the program is written (a multiplication and an addition are two). traffic: bytes that all
    instructions read and write, as the compiler counts them. Where the step is a loop (accumulate_steps above
    1), the compiler counts one turn of it: flops is `products` then, and traffic None.
    """

    memory: Memory
    parameter_count: int
    flops: float
    products: float
    traffic: float | None
    collectives: tuple[Collective, ...]


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """The compiler refused a step that needs at least so many bytes, more than a device has; None: unsaid."""

    needed: int | None
    limit: int | None


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A step that is ready to be compiled: `lowered.compile()`. `batch` and `state` hold shapes alone."""

    lowered: Any
    model: Any  # what `models.build` returns
    state: TrainState
    batch: layout.Batch
    products: float  # on each device, as `count_products` counts

    def compile(self) -> Any:
        """What JAX's `compile` returns, or TooLarge."""
        try:
            return self.lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return too_large(str(error))


def lower_step(options: Sections, num_classes: int, batch_size: int, devices: Sequence[Any]) -> Lowered:
    """The step that a config describes, under `jit`, over a mesh of all the devices, before it is compiled.

    batch_size is of all devices, and must be a multiple of them and of the config's accumulate_steps.
    """
    options = dataclasses.replace(
        options, training=dataclasses.replace(options.training, batch_size=batch_size)
    )
    on_devices = layout.Jit(devices, options.sharding)
    # The length of the schedule is a constant in the program: any will do.
    computed = build.computation(options, num_classes, max(1, options.training.steps), on_devices)
    state = build.state_shapes(options, computed)
    batch = build.batch_shapes(batch_size, options.data.crop_size)
    products = count_products(jax.make_jaxpr(computed.train_step)(state, batch).jaxpr) / len(devices)
    lowered = on_devices.compile(computed.train_step, state).lower(state, batch)  # type: ignore[attr-defined]
    return Lowered(lowered, computed.model, state, batch, products)


def compile_step(
    options: Sections, num_classes: int, batch_size: int, devices: Sequence[Any]
) -> Cost | TooLarge:
    """The cost of `lower_step`'s step, compiled for devices of which none is used."""
    step = lower_step(options, num_classes, batch_size, devices)
    compiled = step.compile()
    if isinstance(compiled, TooLarge):
        return compiled
    loops = options.training.accumulate_steps
    return measure(compiled, step.state, step.batch, step.products, loops, len(devices))


def measure(
    compiled: Any, state: TrainState, batch: layout.Batch, products: float, loops: int, devices: int
) -> Cost:
    """The cost of a compiled step of (state, batch); `products` and `loops` as in `compile_step`."""
    (in_state, in_batch), _ = compiled.input_shardings
    parts = {
        "parameters": _bytes_of(state.params, in_state.params),
        "statistics": _bytes_of(state.batch_stats, in_state.batch_stats),
        "optimizer": _bytes_of(state.opt_state, in_state.opt_state)
        + _bytes_of(state.ema or {}, in_state.ema or {})
        + state.step.dtype.itemsize,
        "batch": _bytes_of(batch, in_batch),
    }
    stats = compiled.memory_analysis()
    memory = Memory(
        **parts,
        # The device may also leave out an argument that the step does not need.
        padding=max(0, stats.argument_size_in_bytes - sum(parts.values())),
        temporaries=stats.temp_size_in_bytes,
        results=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )
    counted = compiled.cost_analysis()
    return Cost(
        memory=memory,
        parameter_count=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        flops=counted["flops"] if loops == 1 else products,
        products=products,
        traffic=counted["bytes accessed"] if loops == 1 else None,
        collectives=tuple(hlo.collectives(compiled.as_text(), devices, norm_names(state.batch_stats))),
    )


def norm_names(batch_stats: Any) -> set[str]:
    """Names of the modules that have batch statistics."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(batch_stats)[0]]
    return {path[-2].key for path in paths if len(path) > 1}


def count_products(jaxpr: Any) -> float:
    """Operations of the convolutions and matrix products of a program as it is written, loops and all.

    A convolution's are 2 · its outputs · a kernel's inputs, with those in the padding and without the zeros
    between the elements of a dilated input; a product's 2 · its outputs · the length that it sums over.
    """
    total = 0.0
    for equation, turns in equations(jaxpr):
        name, params = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            shape = equation.invars[1].aval.shape
            outputs = params["dimension_numbers"].rhs_spec[0]
            inputs = math.prod(shape) / shape[outputs] / math.prod(params["lhs_dilation"])
            total += turns * 2 * math.prod(equation.outvars[0].aval.shape) * inputs
        elif name == "dot_general":
            (left, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            summed = math.prod(shape[axis] for axis in left)
            total += turns * 2 * math.prod(equation.outvars[0].aval.shape) * summed
    return total


# libtpu's words; the second counts the temporaries alone.
_REFUSALS = (
    re.compile(r"[Uu]sed ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm"),
    re.compile(r"temporaries \(([\d.]+[KMGT]?)\) exceeds available HBM \(([\d.]+[KMGT]?)\)"),
)


def too_large(message: str) -> TooLarge:
    """What a compiler's refusal says of the bytes that it needs and has."""
    for words in _REFUSALS:
        if found := words.search(message):
            return TooLarge(*(_size(text) for text in found.groups()))
    return TooLarge(None, None)


def _size(text: str) -> int:
    unit = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}.get(text[-1])
    return int(float(text[:-1]) * unit) if unit else int(float(text))


def _bytes_of(tree: Any, shardings: Any) -> int:
    """Bytes on one device of arrays that lie as `shardings`, a tree of the same structure, says."""
    total = 0
    # An array that the program does not need has no sharding, and takes no room.
    laid = jax.tree.leaves(shardings, is_leaf=lambda sharding: sharding is None)
    for leaf, sharding in zip(jax.tree.leaves(tree), laid, strict=True):
        if sharding is None:
            continue
        total += math.prod(sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
    return total
