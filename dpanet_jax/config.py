"""The configuration: every key with its default, and the checks made before any work starts.

A config file in `configs/` starts from `default_config()` and changes what its experiment changes.
"""

import difflib
import json
import math
import os

from ml_collections import ConfigDict


class ConfigError(ValueError):
    """A key or value of the config is wrong; the message names it and says what to do."""


def default_config() -> ConfigDict:
    """Every key there is. Sizes are pixels, (height, width); shares and factors are plain floats."""
    config = ConfigDict()
    config.seed = 0
    # "jit": one program over a device mesh; "pmap": one replica a device. Same numbers.
    config.parallelism = "jit"
    # Call jax.distributed.initialize() first: a run over several hosts (TPU pods, GPU clusters).
    config.distributed = False

    config.data = ConfigDict()
    config.data.dataset = "streets"
    config.data.data_dir = ""  # where `prepare` wrote; "": $TFDS_DATA_DIR or ~/tensorflow_datasets
    config.data.train_split = "train"
    config.data.val_split = "val"
    config.data.crop_size = (768, 768)
    config.data.base_size = 2048  # long side of an image before the random scale
    config.data.scale_range = (0.5, 2.0)
    config.data.flip = True
    config.data.color_jitter = 0.0  # strength of photometric distortion, 0 to 1
    config.data.blur = 0.0  # largest radius, in pixels, of the blur that half of the images get
    config.data.num_workers = 0  # worker processes that read and augment; 0: threads only

    config.model = ConfigDict()
    config.model.name = "dpanet"  # or "fcn"
    config.model.backbone = "resnet50"
    config.model.stem = "plain"  # or "deep"; a ResNeSt is always deep
    config.model.width = 64  # channels of the first stage
    config.model.output_stride = 8
    config.model.multi_grid = ()  # () or (4, 8, 16)
    config.model.reduce_channels = 512  # 0: the modules straight on c4
    config.model.fusion = "concat"  # or "sum"
    config.model.spatial = "spa"  # "nonlocal", or "none": the branch without its module
    config.model.channel = "cpa"  # or "none"
    config.model.pool_sizes = "mixed"  # "even", "odd"
    config.model.qkv = "identity"  # or "conv"
    config.model.pool = "avg"  # or "max"
    config.model.affinity = "subtract"  # or "square"
    config.model.auxiliary = True
    config.model.dropout = 0.1
    config.model.dtype = "float32"  # of the computation; "bfloat16" keeps parameters in float32
    # Running variance of batch norm: "unbiased", as PyTorch keeps it, or "biased", as Flax does.
    config.model.bn_variance = "unbiased"
    # How logits are resized, in the loss and in predictions: False, by half-pixel centres; True, by the
    # corners' centres, as PyTorch-Encoding's published checkpoints were trained.
    config.model.align_corners = False
    config.model.remat = False  # recompute activations in the backward pass: less memory, more time
    # Weights to start from, of the backbone or of the whole network, by PyTorch's names: a file, or
    # hf://OWNER/NAME[/FILE].
    config.model.pretrained = ""
    config.model.pretrained_missing = ()  # patterns of names in which the file and the model may differ

    config.loss = ConfigDict()  # weight of each head's cross entropy; 0 switches it off
    config.loss.fused = 1.0
    config.loss.spatial = 1.0
    config.loss.channel = 1.0
    config.loss.auxiliary = 0.4
    config.loss.class_weights = ()  # one for each class, as torch's cross entropy weighs; (): all alike

    config.optimizer = ConfigDict()
    config.optimizer.lr = 0.003
    config.optimizer.lr_batch_size = 0  # lr is for this batch size, and scales with it; 0: as it is
    config.optimizer.head_lr_multiplier = 10.0
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.power = 0.9
    config.optimizer.warmup_steps = 0

    config.training = ConfigDict()
    config.training.batch_size = 8  # images an optimizer step, over all devices and hosts
    config.training.epochs = 300
    config.training.steps = 0  # instead of epochs, where it is not 0
    config.training.accumulate_steps = 1  # parts that a batch is computed in, one after another

    config.evaluation = ConfigDict()
    config.evaluation.every_epochs = 1
    config.evaluation.batch_size = 8
    config.evaluation.protocol = "whole"
    # Long side that an image is resized to before the network; the logits are resized to the label.
    config.evaluation.base_size = 0  # 0: the image's own size
    config.evaluation.absent = "exclude"  # or "zero": how the mean IoU counts an absent class

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 0  # besides the one at each evaluation; 0: only those
    config.checkpoint.keep_latest = 1
    config.checkpoint.keep_best = 1

    config.log_every_steps = 20
    config.pictures = 4  # validation images drawn at each evaluation
    return config


# Keys that do not change what is computed: a run may be resumed with other values of these.
_FREE_KEYS = frozenset({"data.data_dir", "data.num_workers", "log_every_steps", "pictures"})

_CHOICES = {
    "parallelism": ("jit", "pmap"),
    "evaluation.protocol": ("whole",),
    "evaluation.absent": ("exclude", "zero"),
    "model.dtype": ("float32", "bfloat16", "float64"),
}
_POSITIVE = (
    "data.base_size", "training.batch_size", "training.accumulate_steps", "evaluation.batch_size",
    "evaluation.every_epochs", "checkpoint.keep_latest", "checkpoint.keep_best", "log_every_steps",
)  # fmt: skip
_NOT_NEGATIVE = (
    "data.num_workers", "data.color_jitter", "data.blur", "training.epochs", "training.steps",
    "loss.fused", "loss.spatial", "loss.channel", "loss.auxiliary", "optimizer.lr",
    "optimizer.lr_batch_size", "optimizer.head_lr_multiplier", "optimizer.momentum",
    "optimizer.weight_decay", "optimizer.power", "optimizer.warmup_steps", "evaluation.base_size",
    "checkpoint.every_steps", "pictures", "seed",
)  # fmt: skip


# The values that a key must stay below, or may reach.
_BELOW = {"optimizer.momentum": 1, "seed": 2**32}
_AT_MOST = {"data.color_jitter": 1}


def flatten(config) -> dict:
    """A nested config as one dictionary {"a.b": value}; tuples stay values."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat.update({f"{key}.{k}": v for k, v in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def did_you_mean(name: str, known) -> str:
    """`; did you mean X?` for the nearest of the known names, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def check(config: ConfigDict) -> None:
    """Raises ConfigError for an unknown or missing key, a wrong type, or a value out of range."""
    given, known = flatten(config), flatten(default_config())
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"config.{key} is not a key of the config{did_you_mean(key, known)}")
        _check_type(key, value, known[key])
    missing = sorted(set(known) - set(given))
    if missing:
        raise ConfigError(f"config.{missing[0]} is missing: start from default_config()")
    for key, choices in _CHOICES.items():
        if given[key] not in choices:
            raise ConfigError(f"config.{key}={given[key]!r}: choose one of {', '.join(choices)}")
    for keys, least, words in ((_POSITIVE, 1, "at least 1"), (_NOT_NEGATIVE, 0, "0 or more")):
        for key in keys:
            if not given[key] >= least:
                raise ConfigError(f"config.{key}={given[key]!r}: must be {words}")
    for key, bound in _BELOW.items():
        if not given[key] < bound:
            raise ConfigError(f"config.{key}={given[key]!r}: must be below {bound}")
    for key, bound in _AT_MOST.items():
        if not given[key] <= bound:
            raise ConfigError(f"config.{key}={given[key]!r}: must be at most {bound}")
    _check_sizes(given)


def _check_type(key: str, value, default) -> None:
    numbers = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
    sequences = isinstance(default, tuple) and isinstance(value, tuple | list)
    if not (numbers or sequences or type(value) is type(default)):
        raise ConfigError(
            f"config.{key}={value!r} is of type {type(value).__name__}; "
            f"it must be of type {type(default).__name__}, like {default!r}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"config.{key}={value!r}: must be finite")


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_sizes(given: dict) -> None:
    crop = tuple(given["data.crop_size"])
    if len(crop) != 2 or not all(type(n) is int and n > 0 for n in crop):
        raise ConfigError(f"config.data.crop_size={crop!r}: must be two positive ints (height, width)")
    scale = tuple(given["data.scale_range"])
    if len(scale) != 2 or not all(map(_is_number, scale)) or not 0 < scale[0] <= scale[1]:
        raise ConfigError(f"config.data.scale_range={scale!r}: must be two numbers, 0 < lowest <= highest")
    if given["training.batch_size"] % given["training.accumulate_steps"]:
        raise ConfigError(
            f"config.training.accumulate_steps={given['training.accumulate_steps']} does not divide "
            f"config.training.batch_size={given['training.batch_size']}"
        )
    if not (given["training.steps"] or given["training.epochs"]):
        raise ConfigError("config.training.epochs and .steps are both 0: set one of them")
    if not any(given[f"loss.{term}"] for term in ("fused", "spatial", "channel", "auxiliary")):
        raise ConfigError("config.loss: every weight is 0, so nothing would be learned")
    class_weights = given["loss.class_weights"]
    if not all(_is_number(w) and w >= 0 for w in class_weights):
        raise ConfigError(f"config.loss.class_weights={class_weights!r}: must be numbers, 0 or more")
    if class_weights and not any(class_weights):
        raise ConfigError("config.loss.class_weights: every weight is 0, so nothing would be learned")
    missing = tuple(given["model.pretrained_missing"])
    if not all(isinstance(pattern, str) for pattern in missing):
        raise ConfigError(f"config.model.pretrained_missing={missing!r}: must be patterns of names")
    pretrained = given["model.pretrained"]
    if pretrained and not pretrained.startswith("hf://") and not os.path.isfile(pretrained):
        raise ConfigError(f"config.model.pretrained={pretrained}: there is no such file")


def check_class_weights(config: ConfigDict, names) -> None:
    """Raises ConfigError where the loss's class weights are not one for each of the data set's classes."""
    weights = tuple(config.loss.class_weights)
    if weights and len(weights) != len(names):
        raise ConfigError(
            f"config.loss.class_weights has {len(weights)} values; {config.data.dataset} has {len(names)} "
            f"classes: {', '.join(names)}"
        )


def model_options(config: ConfigDict) -> dict:
    """`config.model` as keyword arguments of `models.build`: all but where weights come from."""
    options = dict(config.model.items())
    del options["pretrained"], options["pretrained_missing"]
    return options


def to_dict(config: ConfigDict) -> dict:
    """The config as plain nested dictionaries that JSON can hold (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def from_dict(values: dict) -> ConfigDict:
    """The inverse of `to_dict`, on the defaults; ConfigError for a key that is none of them."""
    config = default_config()
    known = flatten(config)
    for key, value in flatten(values).items():
        if key not in known:
            raise ConfigError(f"the stored config has the key {key}, which this version does not know")
        parent, _, name = key.rpartition(".")
        value = tuple(value) if isinstance(value, list) else value
        (config[parent] if parent else config)[name] = value
    return config


def differences(old: dict, new: dict) -> list[str]:
    """What keeps a run with config `old` from going on with `new`: "key: old value, now new value"."""
    old, new = flatten(old), flatten(new)
    return [
        f"{key}: {old.get(key, 'absent')!r}, now {new.get(key, 'absent')!r}"
        for key in sorted(old.keys() | new.keys())
        if key not in _FREE_KEYS and old.get(key) != new.get(key)
    ]
