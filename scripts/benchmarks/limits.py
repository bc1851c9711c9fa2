"""What the machine can do at best, measured in the same run: operations and bytes a second."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import run_alone, torch_settings
from benchmarks.timing import Case, take_turns, turn


@dataclasses.dataclass(frozen=True)
class Sizes:
    """products: sides of square matrices. convolutions: (images, height, width, channels in, channels out) of
    3×3 ones, as the networks have them. copied: bytes.
    """

    products: tuple[int, ...]
    convolutions: tuple[tuple[int, int, int, int, int], ...]
    copied: int


# Each kind of device needs so much work in one call to come near its best.
SIZES = {
    "cpu": Sizes(
        products=(1024, 2048),
        convolutions=((2, 48, 48, 128, 128), (2, 24, 24, 256, 256), (2, 24, 24, 512, 512)),
        copied=2**28,
    ),
    "gpu": Sizes(
        products=(4096, 8192),
        convolutions=((2, 97, 97, 256, 256), (2, 97, 97, 512, 512), (2, 97, 97, 2048, 512)),
        copied=2**31,
    ),
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """product and convolution: the best of all shapes, in operations a second. copy: bytes a second that a
    copy reads and writes, both counted.
    """

    product: float
    convolution: float
    copy: float

    @property
    def arithmetic(self) -> float:
        """Operations a second of the better of the two."""
        return max(self.product, self.convolution)


def measure(dtype: str, rounds: int, torch_device: str | None) -> Limits:
    """On the first device of JAX, and with PyTorch on `torch_device` too: the better counts.

    In processes of their own. Raises RuntimeError where JAX's cannot do it.
    """
    done = run_alone("limits", "jax", dtype, str(rounds))
    if done.returncode:
        raise RuntimeError(f"the machine's limits in {dtype} could not be measured: {done.stderr[-1000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if torch_device:
        done = run_alone("limits", torch_device, dtype, str(rounds))
        if done.returncode == 0:
            theirs = json.loads(done.stdout.splitlines()[-1])
            found = {name: max(value, theirs.get(name, 0.0)) for name, value in found.items()}
    return Limits(**found)


def sizes_of(platform: str) -> Sizes:
    """Of a device as JAX ("cpu", "gpu", "tpu") or PyTorch ("cpu", "cuda") names it."""
    return SIZES["cpu" if platform == "cpu" else "gpu"]


def _of_jax(dtype: str, rounds: int) -> dict[str, float]:
    sizes = sizes_of(jax.devices()[0].platform)
    return {
        "product": _best(_jax_products(dtype, sizes), rounds),
        "convolution": _best(_jax_convolutions(dtype, sizes), rounds),
        "copy": _copy_rate(sizes.copied, rounds),
    }


def _of_torch(dtype: str, rounds: int, device: str) -> dict[str, float]:
    torch_settings.set_up(device)
    sizes = sizes_of(device)
    return {
        "product": _best(_torch_products(dtype, sizes, device), rounds),
        "convolution": _best(_torch_convolutions(dtype, sizes, device), rounds),
    }


def _best(cases: Iterator[tuple[str, tuple[float, Case]]], rounds: int) -> float:
    known = dict(cases)
    times = take_turns({name: turn(case, 0.1) for name, (_, case) in known.items()}, rounds)
    return max(flops / times[name].least for name, (flops, _) in known.items())


def _case(function: Callable[..., Any], *arguments: Any) -> Case:
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


def _jax_products(dtype: str, sizes: Sizes) -> Iterator[tuple[str, tuple[float, Case]]]:
    for side in sizes.products:
        a = jnp.ones((side, side), dtype)
        yield f"jax product {side}", (2.0 * side**3, _case(jnp.matmul, a, a))


def _jax_convolutions(dtype: str, sizes: Sizes) -> Iterator[tuple[str, tuple[float, Case]]]:
    for images, height, width, inputs, outputs in sizes.convolutions:
        x = jnp.ones((images, height, width, inputs), dtype)
        kernel = jnp.ones((3, 3, inputs, outputs), dtype)

        def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        flops = 2.0 * math.prod((images, height, width, outputs, inputs, 9))
        yield f"jax convolution {inputs} to {outputs}", (flops, _case(convolve, x, kernel))


def _torch_products(dtype: str, sizes: Sizes, device: str) -> Iterator[tuple[str, tuple[float, Case]]]:
    import torch

    for side in sizes.products:
        a = torch.ones((side, side), dtype=getattr(torch, dtype), device=device)

        def multiply(a: Any = a) -> Any:
            return a @ a

        yield f"torch product {side}", (2.0 * side**3, _torch_case(multiply, device))


def _torch_convolutions(dtype: str, sizes: Sizes, device: str) -> Iterator[tuple[str, tuple[float, Case]]]:
    import torch

    # The tensor cores of a GPU read channels innermost.
    memory_format = torch.contiguous_format if device == "cpu" else torch.channels_last

    for images, height, width, inputs, outputs in sizes.convolutions:
        x = torch.ones((images, inputs, height, width), dtype=getattr(torch, dtype), device=device)
        kernel = torch.ones((outputs, inputs, 3, 3), dtype=getattr(torch, dtype), device=device)
        x, kernel = (each.contiguous(memory_format=memory_format) for each in (x, kernel))
        flops = 2.0 * math.prod((images, height, width, outputs, inputs, 9))

        def convolve(x: Any = x, kernel: Any = kernel) -> Any:
            return torch.nn.functional.conv2d(x, kernel, padding=1)

        yield f"torch convolution {inputs} to {outputs}", (flops, _torch_case(convolve, device))


def _torch_case(function: Case, device: str) -> Case:
    import torch

    def case() -> None:
        with torch.no_grad():
            function()
        if device != "cpu":
            torch.cuda.synchronize()

    return case


def _copy_rate(copied: int, rounds: int) -> float:
    x = jnp.ones(copied // 4, jnp.float32)
    # Not a plain copy, which could be left out.
    times = take_turns({"copy": turn(_case(lambda x: x + 1, x), 0.1)}, rounds)
    return 2 * copied / times["copy"].least


if __name__ == "__main__":
    where, dtype, rounds = sys.argv[1:]
    found = _of_jax(dtype, int(rounds)) if where == "jax" else _of_torch(dtype, int(rounds), where)
    print(json.dumps(found))
