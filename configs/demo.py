"""DPANet on `streets`, small enough for a laptop: what ./scripts/demo runs.

python -m dpanet_jax prepare --dataset=streets
python -m dpanet_jax train --config=configs/demo.py --workdir=runs/demo

Hardware and expected result: README, "Results".
"""

from dpanet_jax.config import default_config


def get_config():
    config = default_config()
    config.data.dataset = "streets"
    config.data.crop_size = (128, 256)
    config.data.base_size = 256
    config.data.scale_range = (0.75, 1.5)

    config.model.backbone = "resnet18"
    config.model.width = 32
    config.model.output_stride = 16
    config.model.reduce_channels = 64

    config.optimizer.lr = 0.02
    config.optimizer.head_lr_multiplier = 1.0
    config.training.batch_size = 8
    config.training.epochs = 12
    config.evaluation.every_epochs = 4
    return config
