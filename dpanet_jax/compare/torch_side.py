"""The PyTorch side of a comparison: the twin, fed and trained by PyTorch's own code."""

import numpy as np
import torch

from dpanet_jax.compare.measured import STAGES, Measured, Recipe, is_statistic, nchw
from dpanet_jax.interop import twin as twin_lib

# ImageNet's, RGB in [0, 1].
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def measure(recipe: Recipe, state_dict: dict, batches: list[dict], dtype: str) -> Measured:
    """Everything, on the CPU; `state_dict` is of the whole network."""
    twin = make_twin(recipe, state_dict, dtype)
    measured = Measured()
    with torch.no_grad():
        stages = twin.eval().stages(_images(batches[0], dtype))
        measured.logits = {"logits": twin.outputs(stages)["logits"].numpy()}
        measured.stages = {name: stages[name].numpy() for name in STAGES}
    twin.train()
    optimizer = twin_lib.sgd(twin, recipe.lr, recipe.momentum, recipe.weight_decay, recipe.head_lr_multiplier)
    for number, batch in enumerate(batches, start=1):
        twin_lib.set_lr(
            optimizer,
            twin_lib.poly_lr(recipe.lr, number - 1, recipe.total_steps, recipe.power, recipe.warmup_steps),
        )
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
                name: parameter.grad.numpy().copy() for name, parameter in twin.named_parameters()
            }
            measured.batch_stats = {
                name: value.numpy().copy() for name, value in twin.state_dict().items() if is_statistic(name)
            }
        optimizer.step()
    measured.parameters = {
        name: parameter.detach().numpy().copy() for name, parameter in twin.named_parameters()
    }
    return measured


def make_twin(recipe: Recipe, state_dict: dict | None, dtype: str) -> torch.nn.Module:
    """The twin with the weights of `state_dict` (whole network, strict), or with its own random ones."""
    twin = twin_lib.build(recipe.num_classes, **recipe.options)
    twin = twin.to(getattr(torch, dtype))
    if state_dict is not None:
        twin.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state_dict.items()}, strict=True)
    return twin


def random_weights(recipe: Recipe, batch: dict, seed: int) -> dict[str, np.ndarray]:
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
        for block in (block for stage in _layers(twin) for block in stage):
            last = block.bn3 if hasattr(block, "bn3") else block.bn2
            last.weight *= 0.2
        twin(_images(batch, "float64"))
    return {
        name: value.numpy().astype(np.float32)
        for name, value in twin.state_dict().items()
        if "num_batches" not in name
    }


def _layers(twin: torch.nn.Module) -> list[torch.nn.Module]:
    return [getattr(twin.pretrained, f"layer{i}") for i in (1, 2, 3, 4)]


def laid_over(held: dict[str, np.ndarray], state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
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
    query = held.get("head.sa.query_conv.weight")
    if query is not None and query.shape[0] != query.shape[1]:
        taken = {name: value for name, value in taken.items() if not name.startswith("head.sa.")}
    return {**state_dict, **taken}


class TwinPredictor:
    """`predict_batch` of the Predictor, by the twin in float32."""

    def __init__(self, recipe: Recipe, state_dict: dict, base_size: int = 0):
        self._twin = make_twin(recipe, state_dict, "float32").eval()
        self._base_size = base_size

    def predict_batch(self, images: np.ndarray, variables=None) -> np.ndarray:
        """uint8 (B, H, W, 3) → uint8 (B, H, W) class ids."""
        pixels = torch.from_numpy(nchw(images).astype(np.float32))
        height, width = size = pixels.shape[2:]
        if self._base_size and self._base_size != max(size):
            factor = self._base_size / max(size)
            smaller = [max(1, round(length * factor)) for length in (height, width)]
            pixels = torch.nn.functional.interpolate(
                pixels, smaller, mode="bilinear", align_corners=False, antialias=True
            )
        return self._twin.predict(_normalized(pixels), size).numpy().astype(np.uint8)


def _images(batch: dict, dtype: str) -> torch.Tensor:
    """Normalised images (B, 3, H, W); what is padding (beyond "extent") is 0."""
    images = _normalized(torch.from_numpy(nchw(batch["image"]).astype(dtype)))
    for image, (height, width) in zip(images, batch["extent"], strict=True):
        image[:, height:], image[:, :, width:] = 0, 0
    return images


def _normalized(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(x, dtype=pixels.dtype).view(3, 1, 1) for x in (_MEAN, _STD))
    return (pixels / 255 - mean) / std
