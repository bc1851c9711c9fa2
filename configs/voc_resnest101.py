"""DPANet with a ResNeSt-101 on PASCAL VOC 2012, by the paper's recipe: batch 16, 180 epochs of 10,582 images.

python -m dpanet_jax prepare --dataset=voc --source=DIR
python -m dpanet_jax train --config=configs/voc_resnest101.py --workdir=runs/voc_resnest101 \
    --config.model.pretrained=resnest101.safetensors

Hardware: 16 images of 480×480 in all; `plan` says what memory that takes. It has not been run yet.
To be held against: the paper's 68.9 (table 5). The paper says neither by which protocol nor of which split.
Other networks on val: docs/datasets/voc.md.
"""

from ml_collections import ConfigDict

from dpanet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dataset = "voc"
    config.data.crop_size = (480, 480)
    config.data.base_size = 520
    config.data.scale_range = (0.5, 2.0)

    config.model.backbone = "resnest101"

    config.optimizer.lr = 0.001  # the paper is silent; its toolkit's for these images at batch 16
    config.training.batch_size = 16
    config.training.epochs = 180
    config.evaluation.every_epochs = 10
    config.evaluation.protocol = "slide"  # the images are of many sizes: one compilation in place of hundreds
    return config
