"""How a network is trained: `config` itself, and its sections from `.loss` to `.checkpoint`."""

import dataclasses
from typing import Annotated, Literal, TypeAlias

from dpanet_jax.options import Option, OptionError

Freeze: TypeAlias = Literal["nothing", "batch_norms", "backbone"]


@dataclasses.dataclass(frozen=True)
class Run:
    """Of the run as a whole; they stand in no section of the config."""

    seed: Annotated[
        int,
        Option(
            "of the first weights, the order of the data, its augmentation, dropout", least=0, below=2**32
        ),
    ] = 0
    parallelism: Annotated[
        Literal["jit", "pmap"],
        Option(
            "jit: one program over a mesh of all devices; pmap: one replica a device;"
            " the numbers are the same",
            kind="operation",
        ),
    ] = "jit"
    distributed: Annotated[
        bool, Option("join several hosts by jax.distributed.initialize() first", kind="operation")
    ] = False
    imports: Annotated[
        tuple[str, ...],
        Option("modules to import first: they register networks or data sets of your own", kind="operation"),
    ] = ()
    log_every_steps: Annotated[
        int, Option("steps between two lines of the log", least=1, kind="operation")
    ] = 20
    pictures: Annotated[
        int, Option("validation images drawn at each evaluation", least=0, kind="operation")
    ] = 4


@dataclasses.dataclass(frozen=True)
class Loss:
    """Of the loss, beside the weight of each term (the heads declare those)."""

    class_weights: Annotated[
        tuple[float, ...],
        Option("a weight for each class, as torch's cross entropy takes them; empty: all alike", least=0),
    ] = ()
    cross_entropy: Annotated[
        float, Option("weight of the cross entropy in every term; 0 switches it off", least=0)
    ] = 1.0
    dice: Annotated[
        float, Option("weight of the soft Dice loss of each image in every term; 0 switches it off", least=0)
    ] = 0.0
    lovasz: Annotated[
        float, Option("weight of the Lovász-Softmax of each image in every term; 0 switches it off", least=0)
    ] = 0.0
    label_smoothing: Annotated[
        float,
        Option(
            "share of the target that is spread over all classes, as torch's cross entropy", least=0, below=1
        ),
    ] = 0.0
    focal_gamma: Annotated[
        float, Option("times (1 − the label's probability)^gamma: the focal loss; 0 switches it off", least=0)
    ] = 0.0
    ohem_threshold: Annotated[
        float,
        Option("only pixels whose label's probability is below it count (OHEM); 0: all", least=0, most=1),
    ] = 0.0
    ohem_min_kept: Annotated[
        int,
        Option("of OHEM: at least so many times the batch's images of pixels count, the hardest", least=0),
    ] = 100_000

    def __post_init__(self) -> None:
        if self.class_weights and not any(self.class_weights):
            raise OptionError("class_weights: every weight is 0, so nothing would be learned")
        if not (self.cross_entropy or self.dice or self.lovasz):
            raise OptionError("cross_entropy, dice and lovasz are all 0, so nothing would be learned")
        if self.label_smoothing and self.focal_gamma:
            raise OptionError(
                f"label_smoothing={self.label_smoothing!r}: no published definition joins it to focal_gamma; "
                "set one of the two to 0"
            )
        if not self.ohem_threshold and self.ohem_min_kept != type(self).ohem_min_kept:
            raise OptionError(
                f"ohem_min_kept={self.ohem_min_kept!r}: OHEM is off; set loss.ohem_threshold, or leave it at "
                f"its default, {type(self).ohem_min_kept}"
            )
        of_pixels = ("class_weights", "label_smoothing", "focal_gamma", "ohem_threshold")
        for name in of_pixels if not self.cross_entropy else ():
            if getattr(self, name):
                raise OptionError(f"{name}={getattr(self, name)!r}: loss.cross_entropy, which uses it, is 0")


# Options that not every optimizer, or not every schedule, has: what chooses it, and which have them.
_ONLY_OF = {
    "momentum": ("name", ("sgd", "lars")),
    "trust_coefficient": ("name", ("lars",)),
    "beta1": ("name", ("adamw",)),
    "beta2": ("name", ("adamw",)),
    "eps": ("name", ("adamw",)),
    "power": ("schedule", ("poly",)),
}


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """SGD, LARS or AdamW, with the poly or the cosine schedule; see `training.optimizer`."""

    name: Annotated[
        Literal["sgd", "lars", "adamw"],
        Option(
            "sgd, as PyTorch's; lars: each layer a rate of its own, for batches of many hundreds; adamw, as"
            " PyTorch's"
        ),
    ] = "sgd"
    lr: Annotated[float, Option("learning rate of the backbone at the first step", least=0)] = 0.003
    lr_batch_size: Annotated[
        int, Option("batch size that lr is for, and scales linearly from; 0: lr as it is", least=0)
    ] = 0
    head_lr_multiplier: Annotated[float, Option("times lr: the rate of all but the backbone", least=0)] = 10.0
    layer_decay: Annotated[
        float,
        Option(
            "times the rate, once for each step away from the heads: layer4 once, …, layer1 four times, the"
            " stem five times; 1: off",
            above=0,
            most=1,
        ),
    ] = 1.0
    momentum: Annotated[float, Option("of SGD and LARS", least=0, below=1)] = 0.9
    beta1: Annotated[float, Option("of AdamW: decay of the gradients' mean", least=0, below=1)] = 0.9
    beta2: Annotated[
        float, Option("of AdamW: decay of the mean of the gradients' squares", least=0, below=1)
    ] = 0.999
    eps: Annotated[float, Option("of AdamW: added to the root of that mean", above=0)] = 1e-8
    weight_decay: Annotated[
        float,
        Option(
            "on every parameter, added to the gradient as PyTorch does; with adamw on every parameter beside"
            " the gradient; with lars on kernels alone",
            least=0,
        ),
    ] = 1e-4
    schedule: Annotated[
        Literal["poly", "cosine"],
        Option("how the rate falls: poly, or lr · (1 + cos(π · step/total)) / 2"),
    ] = "poly"
    power: Annotated[float, Option("of the poly schedule, lr · (1 − step/total)^power", least=0)] = 0.9
    warmup_steps: Annotated[
        int, Option("steps in which the rate rises linearly to the schedule", least=0)
    ] = 0
    trust_coefficient: Annotated[
        float, Option("of LARS: a layer's rate is lr times this, times the norms' ratio", above=0)
    ] = 0.001

    def __post_init__(self) -> None:
        for option, (chooses, having) in _ONLY_OF.items():
            value, default, chosen = (
                getattr(self, option),
                getattr(type(self), option),
                getattr(self, chooses),
            )
            if chosen not in having and value != default:
                raise OptionError(
                    f"{option}={value!r}: {chosen} has none; set optimizer.{chooses} to "
                    f"{' or '.join(having)}, or leave it at its default, {default:g}"
                )


@dataclasses.dataclass(frozen=True)
class Training:
    """How long, and in what portions."""

    batch_size: Annotated[int, Option("images an optimizer step, over all devices and hosts", least=1)] = 8
    epochs: Annotated[int, Option("passes over the training split", least=0)] = 300
    steps: Annotated[int, Option("optimizer steps, instead of epochs; 0: by epochs", least=0)] = 0
    accumulate_steps: Annotated[
        int, Option("parts that a batch is computed in, one after another, to save memory", least=1)
    ] = 1
    freeze: Annotated[
        Freeze,
        Option(
            "what of the backbone is not trained: nothing; batch_norms, their statistics, scales and biases;"
            " all of it"
        ),
    ] = "nothing"
    ema_decay: Annotated[
        float,
        Option(
            "decay of the exponential moving average of the weights, which is evaluated and saved; 0: none",
            least=0,
            below=1,
        ),
    ] = 0.0
    patience: Annotated[
        int,
        Option(
            "evaluations without a higher validation mean IoU after which the run ends early; 0: none",
            least=0,
            kind="operation",
        ),
    ] = 0

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate_steps:
            raise OptionError(
                f"accumulate_steps={self.accumulate_steps} does not divide batch_size={self.batch_size}"
            )
        if not (self.steps or self.epochs):
            raise OptionError("epochs and steps are both 0: set one of them")


@dataclasses.dataclass(frozen=True)
class Sharding:
    """What is split over devices beside the batch; see `training.layout.Jit`."""

    space: Annotated[
        int,
        Option(
            "devices that share each image, split by its height; it must divide the number of devices",
            least=1,
            kind="operation",
        ),
    ] = 1
    state: Annotated[
        Literal["whole", "optimizer", "parameters"],
        Option(
            "what the devices that share the batch keep a part of each, and not whole: nothing;"
            " the optimizer's state (as ZeRO-1); that and the parameters (as FSDP)",
            kind="operation",
        ),
    ] = "whole"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When checkpoints are written, and which are kept."""

    every_steps: Annotated[
        int,
        Option(
            "steps between two checkpoints, besides the one at each evaluation; 0: only those",
            least=0,
            kind="operation",
        ),
    ] = 0
    keep_latest: Annotated[int, Option("newest checkpoints kept", least=1, kind="operation")] = 1
    keep_best: Annotated[
        int, Option("checkpoints of the highest validation mean IoU kept", least=1, kind="operation")
    ] = 1
