"""Where Flax's and JAX's own defaults differ from PyTorch's, each measured: a Markdown table.

python scripts/framework_differences.py

Needs PyTorch. All in float64 on the CPU, on random numbers of a fixed seed; a difference is the largest over
the elements, relative to the largest magnitude of PyTorch's.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F

from dpanet_jax.models.layers import BatchNorm, Conv, average_down, max_pool
from dpanet_jax.models.pooling import adaptive_pool
from dpanet_jax.models.resize import resize_bilinear
from dpanet_jax.training.optimizer import sgd
from dpanet_jax.training.options import Optimizer

RNG = np.random.default_rng(0)
# What is usual in JAX, and what stands in this package: the differences of both.
Pair = tuple[str, str]


def nchw(x: Any) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(np.array(x, np.float64), -1, 1).copy())


def nhwc(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


def relative(ours: Any, theirs: np.ndarray) -> str:
    difference = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    return "0" if difference == 0 else f"{difference:.1e}"


def running_variance(batch: int, size: int) -> Pair:
    x = RNG.normal(size=(batch, size, size, 16))
    norm = torch.nn.BatchNorm2d(16).double()
    norm(nchw(x))
    assert norm.running_var is not None
    theirs = norm.running_var.numpy()

    def kept(variance: str) -> Any:
        module = BatchNorm(
            use_running_average=False, momentum=0.9, param_dtype=jnp.float64, variance=variance
        )
        variables = module.init(jax.random.key(0), jnp.asarray(x))
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        return module.apply(variables, jnp.asarray(x), mutable=["batch_stats"])[1]["batch_stats"]["var"]

    return relative(kept("biased"), theirs), relative(kept("unbiased"), theirs)


def strided_convolution() -> Pair:
    x, kernel = RNG.normal(size=(1, 64, 64, 8)), RNG.normal(size=(3, 3, 8, 8))
    theirs = nhwc(F.conv2d(nchw(x), torch.from_numpy(kernel.transpose(3, 2, 0, 1)), stride=2, padding=1))
    same = nn.Conv(8, (3, 3), 2, padding="SAME", use_bias=False)
    ours = Conv(8, 3, 2)
    variables = {"params": {"kernel": kernel}}
    return relative(same.apply(variables, x), theirs), relative(ours.apply(variables, x), theirs)


def adaptive_average() -> Pair:
    x = RNG.normal(size=(1, 23, 30, 8))
    theirs = nhwc(F.adaptive_avg_pool2d(nchw(x), 12))
    # The usual replacement: windows of one size and stride.
    size, stride = ((23 - 11, 30 - 2 * 11), (1, 2))
    plain = nn.avg_pool(jnp.asarray(x), size, stride)
    return relative(plain, theirs), relative(adaptive_pool(jnp.asarray(x), 12), theirs)


def enlarging(align_corners: bool) -> Pair:
    x = RNG.normal(size=(1, 23, 30, 8))
    theirs = nhwc(F.interpolate(nchw(x), (180, 240), mode="bilinear", align_corners=align_corners))
    library = jax.image.resize(jnp.asarray(x), (1, 180, 240, 8), "bilinear")
    return relative(library, theirs), relative(
        resize_bilinear(jnp.asarray(x), (180, 240), align_corners), theirs
    )


def reducing() -> Pair:
    x = RNG.normal(size=(1, 60, 80, 8))
    theirs = nhwc(F.interpolate(nchw(x), (23, 30), mode="bilinear", align_corners=False))
    library = jax.image.resize(jnp.asarray(x), (1, 23, 30, 8), "bilinear")
    return relative(library, theirs), relative(resize_bilinear(jnp.asarray(x), (23, 30)), theirs)


def max_pool_gradient() -> Pair:
    # After a ReLU most windows hold several zeros.
    x, weight = np.maximum(RNG.normal(size=(1, 32, 32, 8)) - 0.7, 0), RNG.normal(size=(1, 16, 16, 8))
    leaf = nchw(x).requires_grad_()
    (F.max_pool2d(leaf, 3, 2, 1) * nchw(weight)).sum().backward()

    def library(x: jax.Array) -> jax.Array:
        return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])

    def gradient(pool: Callable[[jax.Array], jax.Array]) -> jax.Array:
        return jax.grad(lambda x: (pool(x) * weight).sum())(jnp.asarray(x))

    assert leaf.grad is not None
    theirs = nhwc(leaf.grad)
    return relative(gradient(library), theirs), relative(gradient(max_pool), theirs)


def shortcut_pool() -> Pair:
    x = RNG.normal(size=(1, 23, 31, 8))
    theirs = nhwc(F.avg_pool2d(nchw(x), 2, 2, ceil_mode=True, count_include_pad=False))
    counted = nn.avg_pool(jnp.asarray(x), (2, 2), (2, 2), "SAME", count_include_pad=True)
    return relative(counted, theirs), relative(average_down(jnp.asarray(x), 2), theirs)


def weight_decay() -> Pair:
    """Ten steps of SGD with momentum 0.9 and weight decay 0.01 on one tensor."""
    start, gradients = RNG.normal(size=64), RNG.normal(size=(10, 64))
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()

    def ours(transformation: optax.GradientTransformation) -> jax.Array:
        params: Any = {"backbone": jnp.asarray(start)}
        state = transformation.init(params)
        for gradient in gradients:
            updates, state = transformation.update({"backbone": jnp.asarray(gradient)}, state, params)
            params = optax.apply_updates(params, updates)
        return params["backbone"]

    decoupled = optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.01), optax.scale(-0.1))
    theirs = parameter.detach().numpy()
    house = sgd(lambda step: jnp.asarray(0.1), Optimizer(momentum=0.9, weight_decay=0.01))
    return relative(ours(decoupled), theirs), relative(ours(house), theirs)


def main() -> None:
    rows = {
        "running variance, 8 crops of 96×96 at 1/8 (n = 1,152)": running_variance(8, 12),
        "running variance of a ResNeSt's attention, batch 8 (n = 8)": running_variance(8, 1),
        "running variance of a ResNeSt's attention, batch 2 (n = 2)": running_variance(2, 1),
        'convolution of stride 2, padding "SAME"': strided_convolution(),
        "adaptive pooling 23×30 → 12×12, by equal windows": adaptive_average(),
        "enlarging 23×30 → 180×240, jax.image.resize; align_corners=False": enlarging(False),
        "enlarging 23×30 → 180×240, jax.image.resize; align_corners=True": enlarging(True),
        "reducing 60×80 → 23×30, jax.image.resize (antialiases)": reducing(),
        "gradient of the max pool where values are equal, nn.max_pool": max_pool_gradient(),
        "shortcut's average pool of odd sizes, padding counted": shortcut_pool(),
        "SGD, weight decay after momentum (decoupled)": weight_decay(),
    }
    print("| | usual in JAX | dpanet_jax |\n| --- | --- | --- |")
    for name, (usual, ours) in rows.items():
        print(f"| {name} | {usual} | {ours} |")


if __name__ == "__main__":
    with jax.enable_x64(True):
        main()
