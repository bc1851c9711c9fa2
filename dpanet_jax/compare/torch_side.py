"""The PyTorch side of a comparison: the twin, fed and trained by PyTorch's own code."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from dpanet_jax.compare.measured import STAGES, Measured, Recipe, is_statistic, nchw
from dpanet_jax.evaluation.protocols.whole import Whole
from dpanet_jax.imagenet import MEAN, STD
from dpanet_jax.interop import twin as twin_lib
from dpanet_jax.interop.names import is_danet

StateDict = dict[str, np.ndarray]
Batch = dict[str, np.ndarray]


def measure(recipe: Recipe, state_dict: StateDict, batches: list[Batch], dtype: str) -> Measured:
    """Everything, on the CPU; `state_dict` is of the whole network."""
    twin = make_twin(recipe, state_dict, dtype)
    measured = Measured()
    with torch.no_grad():
        stages = twin.eval().stages(_images(batches[0], dtype))
        measured.logits = {"logits": twin.outputs(stages)["logits"].numpy()}
        measured.stages = {name: stages[name].numpy() for name in STAGES}
    twin.train()
    by = recipe.optimizer
    optimizer = twin_lib.sgd(twin, recipe.lr, by.momentum, by.weight_decay, by.head_lr_multiplier)
    for number, batch in enumerate(batches, start=1):
        rate = twin_lib.poly_lr(recipe.lr, number - 1, recipe.total_steps, by.power, by.warmup_steps)
        twin_lib.set_lr(optimizer, rate)
        optimizer.zero_grad()
        labels = torch.from_numpy(batch["label"].astype(np.int64))
        loss, terms = twin.loss(
            twin(_images(batch, dtype)), labels, recipe.loss_weights, recipe.class_weights
        )
        loss.backward()
        for parameter in twin.parameters():
            # Of a head whose loss has weight 0. PyTorch's SGD would pass it over, weight decay and all.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        measured.losses[f"step {number}"] = loss.detach().numpy().copy()
        if number == 1:
            measured.loss = {"loss": measured.losses["step 1"]} | {
                f"loss/{term}": value.detach().numpy().copy() for term, value in terms.items()
            }
            measured.gradients = {
                name: _held(parameter.grad).numpy().copy() for name, parameter in twin.named_parameters()
            }
            measured.batch_stats = {
                name: value.numpy().copy() for name, value in twin.state_dict().items() if is_statistic(name)
            }
        optimizer.step()
    measured.parameters = {
        name: parameter.detach().numpy().copy() for name, parameter in twin.named_parameters()
    }
    return measured


def _held(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None  # Every parameter has been given one.
    return gradient


def make_twin(recipe: Recipe, state_dict: StateDict | None, dtype: str) -> twin_lib.Segmenter:
    """The twin with the weights of `state_dict` (whole network, strict), or with its own random ones."""
    twin = twin_lib.build(recipe.num_classes, **recipe.options)
    twin = twin.to(getattr(torch, dtype))
    if state_dict is not None:
        twin.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state_dict.items()}, strict=True)
    return twin


def random_weights(recipe: Recipe, batch: Batch, seed: int) -> StateDict:
    """A state dict of random weights with which every part of the network counts.

    PyTorch's own start, but batch norms' weights are in [0.5, 1.5] and their biases in ±0.2; λ and μ, which
    start at 0 and would hide the two modules, and the non-local block's last convolution are moved off it;
    and the running statistics are those of a batch, so that activations keep their size through 100 layers.
    The last batch norm of each residual block has a fifth of that weight: at its start, a deep network whose
    branches are as strong as its shortcuts multiplies any rounding, and trained networks are not so.
    """
    torch.manual_seed(seed)
    twin = make_twin(recipe, None, "float64").train()
    norms = [m for m in twin.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.2, 0.2)
            norm.momentum = 1.0
        for parameter in twin.parameters():
            if not parameter.any():  # λ, μ, and biases that start at 0
                parameter.uniform_(0.1, 0.3)
        for block in (block for i in (1, 2, 3, 4) for block in getattr(twin.pretrained, f"layer{i}")):
            last = block.bn3 if hasattr(block, "bn3") else block.bn2
            last.weight *= 0.2
        twin(_images(batch, "float64"))
    return {
        name: value.numpy().astype(np.float32)
        for name, value in twin.state_dict().items()
        if "num_batches" not in name
    }


def laid_over(held: StateDict, state_dict: StateDict) -> StateDict:
    """A whole network's state dict with the values that a file holds, by PyTorch's names alone.

    A backbone's bare names get their prefix; what the network does not have, or has in another shape, is
    left out, as is a DANet's position attention.
    """
    prefix = "" if any(name.startswith("pretrained.") for name in held) else "pretrained."
    taken = {
        prefix + name: value.astype(np.float32)
        for name, value in held.items()
        if prefix + name in state_dict and value.shape == state_dict[prefix + name].shape
    }
    if is_danet(held):
        taken = {name: value for name, value in taken.items() if not name.startswith("head.sa.")}
    return {**state_dict, **taken}


class TwinWhole:
    """Evaluation's protocol `whole`, by the twin in float32."""

    name = "whole"
    fills_up = True
    lower = Whole.lower

    def __init__(self, recipe: Recipe, base_size: int = 0) -> None:
        self.base_size = base_size
        self._recipe = recipe

    def put(self, variables: StateDict) -> dict[str, Any]:
        """A whole network's state dict → {"twin": the network that has it}."""
        return {"twin": make_twin(self._recipe, variables, "float32").eval()}

    def measured(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All pixels are measured."""
        return images, labels

    def ids(self, images: np.ndarray, variables: dict[str, Any]) -> np.ndarray:
        """uint8 (B, H, W, 3) → uint8 (B, H, W) class ids."""
        height, width = images.shape[1:3]
        ids = variables["twin"].predict(self._prepared(images), (height, width))
        return ids.numpy().astype(np.uint8)

    def each(self, batches: Iterable[np.ndarray], variables: dict[str, Any]) -> Iterator[np.ndarray]:
        """`ids` of one batch after another."""
        return (self.ids(images, variables) for images in batches)

    def probabilities(self, images: np.ndarray, variables: dict[str, Any]) -> np.ndarray:
        """uint8 (B, H, W, 3) → float32 (B, H, W, K); they sum to 1 over K."""
        twin = variables["twin"]
        with torch.no_grad():
            logits = twin.resize(twin(self._prepared(images))["logits"], images.shape[1:3])
        return logits.softmax(dim=1).permute(0, 2, 3, 1).numpy()

    def _prepared(self, images: np.ndarray) -> torch.Tensor:
        """Normalised pixels (B, 3, H', W'), the long side `base_size`."""
        pixels = torch.from_numpy(nchw(images).astype(np.float32))
        height, width = pixels.shape[2:]
        if self.base_size and self.base_size != max(height, width):
            factor = self.base_size / max(height, width)
            smaller = [max(1, round(length * factor)) for length in (height, width)]
            pixels = torch.nn.functional.interpolate(
                pixels, smaller, mode="bilinear", align_corners=False, antialias=True
            )
        return _normalized(pixels)


def _images(batch: Batch, dtype: str) -> torch.Tensor:
    """Normalised images (B, 3, H, W); what is padding (beyond "extent") is 0."""
    images = _normalized(torch.from_numpy(nchw(batch["image"]).astype(dtype)))
    for image, (height, width) in zip(images, batch["extent"], strict=True):
        image[:, height:], image[:, :, width:] = 0, 0
    return images


def _normalized(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(x, dtype=pixels.dtype).view(3, 1, 1) for x in (MEAN, STD))
    return (pixels / 255 - mean) / std
