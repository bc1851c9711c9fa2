"""The networks that are measured, and one training step and one prediction of each, ours and the twin's."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import torch_settings
from benchmarks.ways import Measurable
from dpanet_jax import config as config_lib
from dpanet_jax.analysis.cost import count_products
from dpanet_jax.config import Sections
from dpanet_jax.evaluation import protocols
from dpanet_jax.models.segmenter import init_variables
from dpanet_jax.training import build, layout
from dpanet_jax.training.state import TrainState

NUM_CLASSES = 19
NETWORKS: dict[str, dict[str, Any]] = {
    "dpanet": {},
    "fcn": {"name": "fcn"},
    # DPANet's head with the non-local block in the place of SPA, and no CPA.
    "nonlocal": {"spatial": "nonlocal", "channel": "none"},
}
BACKBONES = ("resnet18", "resnet50", "resnet101", "resnest101")


@dataclasses.dataclass(frozen=True)
class Work:
    """What is computed: a batch of so many square images, through one network, in one type."""

    network: str
    backbone: str
    dtype: str
    batch_size: int
    size: int

    @property
    def name(self) -> str:
        """In words, for a row of the table."""
        return f"{self.network} {self.backbone} {self.dtype} {self.batch_size}×{self.size}²"

    @property
    def options(self) -> dict[str, Any]:
        """Those of `config.model` that are not at their default, but for the type."""
        return {"backbone": self.backbone, **NETWORKS[self.network]}

    @property
    def config(self) -> ConfigDict:
        """That of a run that does this work."""
        config = config_lib.default_config()
        config.data.crop_size = (self.size, self.size)
        config.model.dtype = self.dtype
        config.training.batch_size = self.batch_size
        for key, value in self.options.items():
            config.model[key] = value
        return config

    @property
    def sections(self) -> Sections:
        """The values of `config`."""
        config_lib.check_config(self.config)
        return config_lib.sections(self.config)

    @property
    def has_twin(self) -> bool:
        """Whether PyTorch's twin has this network: it has no ResNeSt."""
        return self.backbone.startswith("resnet")

    def batch(self) -> dict[str, np.ndarray]:
        """Random images and labels, the same at every call."""
        rng = np.random.default_rng(0)
        shape = (self.batch_size, self.size, self.size)
        return {
            "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            "label": rng.integers(0, NUM_CLASSES, shape, dtype=np.uint8),
            "extent": np.full((self.batch_size, 2), self.size, np.int32),
        }


class Ours:
    """This package's step and prediction, as training and evaluation run them, on all devices."""

    def __init__(self, work: Work) -> None:
        self.work, self.sections = work, work.sections
        self.layout = layout.make("jit", self.sections.sharding)
        self.computed = build.computation(self.sections, NUM_CLASSES, 1000, self.layout)
        self.variables = init_variables(self.computed.model, jax.random.key(0))

    def training(self) -> Measurable:
        """One step, with its batch put on the devices and its loss waited for."""
        state = TrainState.create(self.variables, self.computed.optimizer).to_host()
        step = self.layout.compile(self.computed.train_step, state)
        batch = self.work.batch()
        flops = count_products(jax.make_jaxpr(self.computed.train_step)(state, batch).jaxpr)
        held = [self.layout.put_state(state)]

        def case() -> None:
            held[0], metrics = step(held[0], self.layout.put_batch(batch))
            jax.block_until_ready((held[0], metrics))

        return Measurable(case, flops)

    def inference(self) -> Measurable:
        """A batch of uint8 images to its class ids, in host memory."""
        protocol = protocols.make("whole", self.computed.model)
        variables = protocol.put(self.variables)
        images = self.work.batch()["image"]

        def case() -> None:
            for _ in protocol.each(iter([images]), variables):
                pass

        def network(variables: Any, images: Any) -> Any:
            return self.computed.model.apply(variables, images, train=False)

        traced = jax.make_jaxpr(network)(self.variables, images.astype(np.float32))
        return Measurable(case, count_products(traced.jaxpr))


class Theirs:
    """The PyTorch twin's, as a plain training loop has it, in one of `MODES`."""

    MODES: Mapping[str, dict[str, bool]] = {
        "eager": {},
        "eager channels_last": {"channels_last": True},
        "compiled": {"compiled": True},
        "compiled channels_last": {"compiled": True, "channels_last": True},
    }

    def __init__(self, work: Work, device: str, channels_last: bool = False, compiled: bool = False) -> None:
        import torch

        from dpanet_jax.interop import twin

        self.work, self.device = work, device
        torch_settings.set_up(device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.sections = work.sections
        torch.manual_seed(0)
        network: Any = twin.build(NUM_CLASSES, **work.options)
        self.network: Any = network.to(device).to(memory_format=self.memory_format)
        self.forward: Any = torch.compile(self.network) if compiled else self.network

    def _images(self, images: Any) -> Any:
        import torch

        from dpanet_jax.imagenet import MEAN, STD

        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (MEAN, STD))
        return ((x - mean) / std).contiguous(memory_format=self.memory_format)

    def _computing(self) -> Any:
        return torch_settings.computing_in(self.work.dtype, self.device)

    def optimizer(self) -> Any:
        """PyTorch's SGD as the recipe has it."""
        from dpanet_jax.interop import twin

        options = self.sections.optimizer
        return twin.sgd(
            self.network, options.lr, options.momentum, options.weight_decay, options.head_lr_multiplier
        )

    def training(self) -> Measurable:
        """One step of PyTorch's SGD, its batch put on the device and its loss waited for."""
        import torch

        from dpanet_jax.interop import twin

        options, optimizer = self.sections.optimizer, self.optimizer()
        batch = self.work.batch()
        self.network.train()
        steps = iter(range(10**9))

        def case() -> None:
            twin.set_lr(optimizer, twin.poly_lr(options.lr, next(steps) % 1000, 1000, options.power))
            optimizer.zero_grad(set_to_none=True)
            labels = torch.from_numpy(batch["label"].astype(np.int64)).to(self.device)
            with self._computing():
                outputs = self.forward(self._images(batch["image"]))
                loss, _ = self.network.loss(outputs, labels, self.sections.loss)
            loss.backward()
            optimizer.step()
            loss.item()

        return Measurable(case)

    def inference(self) -> Measurable:
        """A batch of uint8 images to its class ids, in host memory."""
        import torch

        images = self.work.batch()["image"]
        size = (self.work.size, self.work.size)
        self.network.eval()

        def case() -> None:
            with torch.inference_mode(), self._computing():
                logits = self.forward(self._images(images))["logits"]
                self.network.resize(logits, size).argmax(dim=1).to(torch.uint8).cpu()

        return Measurable(case)


def ours(part: str, work: Mapping[str, Any]) -> Measurable:
    """This package's `part`, "training" or "inference", of a `Work` as a dictionary."""
    made: Measurable = getattr(Ours(Work(**work)), part)()
    return made


def theirs(part: str, work: Mapping[str, Any], device: str, mode: str) -> Measurable:
    """The twin's, in one of `Theirs.MODES`."""
    made: Measurable = getattr(Theirs(Work(**work), device, **Theirs.MODES[mode]), part)()
    return made
