"""Writes what PyTorch gives, for tests that run where it is not installed: python scripts/make_golden.py

tests/golden/torch.npz: pooling and resizing; arrays are NHWC, the inputs are in the file.
tests/golden/networks.json: two numbers of every stage, gradient, statistic and trained parameter of the
networks in tests/golden/networks.py, computed by their PyTorch twins in float64.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
POOLED = ((12, 20), (13, 9), (5, 3))
POOL_SIZES = (1, 4, 7, 10, 13)
RESIZED = {(5, 7): ((9, 13), (3, 4), (1, 1), (5, 2)), (1, 1): ((4, 3),), (4, 1): ((8, 1), (2, 9))}


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).numpy()


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    write_layers()
    write_networks()


def write_networks() -> None:
    from dpanet_jax.compare import torch_side

    spec = importlib.util.spec_from_file_location("networks", GOLDEN / "networks.py")
    assert spec is not None and spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    content = {}
    for name in networks.NETWORKS:
        recipe = networks.recipe(name)
        held = torch_side.make_twin(recipe, None, "float64").state_dict()
        shapes = {key: tuple(x.shape) for key, x in held.items() if "num_batches" not in key}
        measured = torch_side.measure(recipe, networks.weights(shapes), networks.batches(), "float64")
        content[name] = {"shapes": shapes, **networks.summary(measured)}
    path = GOLDEN / "networks.json"
    path.write_text(json.dumps({"torch": torch.__version__, "networks": content}) + "\n")
    print(f"{path}: {len(content)} networks of PyTorch {torch.__version__}, {path.stat().st_size} bytes")


def write_layers() -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for height, width in POOLED:
        name = f"{height}x{width}"
        x = arrays[f"pool_{name}"] = rng.integers(-99, 100, (1, height, width, 2), dtype=np.int16)
        for n in POOL_SIZES:
            arrays[f"pool_{name}_avg_{n}"] = nhwc(F.adaptive_avg_pool2d(nchw(x), n))
            arrays[f"pool_{name}_max_{n}"] = nhwc(F.adaptive_max_pool2d(nchw(x), n)).astype(np.int16)
    for (height, width), sizes in RESIZED.items():
        name = f"{height}x{width}"
        x = arrays[f"resize_{name}"] = rng.integers(-99, 100, (1, height, width, 2), dtype=np.int16)
        for size in sizes:
            for align in (False, True):
                y = F.interpolate(nchw(x), size, mode="bilinear", align_corners=align)
                arrays[f"resize_{name}_to_{size[0]}x{size[1]}_{'corners' if align else 'centres'}"] = nhwc(y)
    for height, width in ((7, 10), (8, 5)):
        # Few values, so that most windows hold their maximum more than once.
        x = rng.integers(0, 3, (1, height, width, 3), dtype=np.int16)
        image = nchw(x).requires_grad_()
        y = F.max_pool2d(image, 3, 2, 1)
        cotangent = rng.integers(1, 100, nhwc(y).shape, dtype=np.int16)
        y.backward(nchw(cotangent))
        name = f"maxpool_{height}x{width}"
        arrays |= {name: x, f"{name}_value": nhwc(y), f"{name}_cotangent": cotangent}
        assert image.grad is not None
        arrays[f"{name}_gradient"] = nhwc(image.grad)
    path = GOLDEN / "torch.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(arrays)} arrays of PyTorch {torch.__version__}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
