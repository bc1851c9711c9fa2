"""DPANet with a ResNet-101 on COCO-Stuff, by the usual recipe: batch 16, 80,000 steps, crops of 512×512.

python -m dpanet_jax prepare --dataset=coco_stuff --source=DIR
python -m dpanet_jax train --config=configs/coco_stuff_resnet101.py --workdir=runs/coco_stuff_resnet101 \
    --config.model.pretrained=resnet101.safetensors

Hardware: 16 images of 512×512 in all; `plan` says what memory that takes. It has not been run yet.
To be held against: 40.34 on val, PSPNet by mmsegmentation with this backbone, these steps and one scale; 33.2
is DeepLab's with VGG-16, by the data set's authors. The paper has no figure on COCO-Stuff. More of them, and
where this recipe differs from mmsegmentation's: docs/datasets/coco_stuff.md.
"""

from ml_collections import ConfigDict

from dpanet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dataset = "coco_stuff"
    config.data.crop_size = (512, 512)
    config.data.base_size = 683  # the long side of a 4:3 image whose short one is 512
    config.data.scale_range = (0.5, 2.0)
    config.data.cat_max_ratio = 0.75
    config.data.color_jitter = 0.5

    config.model.backbone = "resnet101"

    config.optimizer.lr = 0.01
    config.optimizer.head_lr_multiplier = 1.0
    config.optimizer.weight_decay = 5e-4
    config.training.batch_size = 16
    config.training.epochs = 0
    config.training.steps = 80_000  # 10.8 epochs
    config.evaluation.protocol = "slide"  # images of hundreds of sizes, and one compiled shape
    config.evaluation.base_size = 683
    return config
