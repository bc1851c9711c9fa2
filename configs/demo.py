"""DPANet on `streets`, sized for two CPU cores: what ./scripts/demo runs.

python -m dpanet_jax prepare --dataset=streets
python -m dpanet_jax train --config=configs/demo.py --workdir=runs/demo

Hardware and expected result: docs/results.md.
"""

from ml_collections import ConfigDict

from dpanet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dataset = "streets"
    config.data.crop_size = (96, 192)
    config.data.base_size = 192
    config.data.scale_range = (1.0, 1.0)  # a short run learns more from whole scenes than from crops

    config.model.backbone = "resnet18"
    config.model.width = 24
    config.model.reduce_channels = 64
    config.model.auxiliary = False

    # From random weights: the head needs no faster rate than the backbone.
    config.optimizer.lr = 0.04
    config.optimizer.head_lr_multiplier = 1.0
    config.training.batch_size = 4
    config.training.epochs = 15
    config.evaluation.every_epochs = 5
    return config
