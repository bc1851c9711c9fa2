"""DPANet with a ResNet-50 on ADE20K, by the field's usual recipe: batch 16, 80,000 steps, crops of 512×512.

python -m dpanet_jax prepare --dataset=ade20k --source=DIR
python -m dpanet_jax train --config=configs/ade20k_resnet50.py --workdir=runs/ade20k_resnet50 \
    --config.model.pretrained=resnet50.safetensors

Hardware: 16 images of 512×512 in all; `plan` says what memory that takes. It has not been run yet.
To be held against: 41.01 on val, ANN by mmsegmentation with this backbone, these steps and one scale; DANet
has 41.66 and PSPNet 41.13. The paper has no figure on ADE20K. docs/datasets/ade20k.md has more of them, and
where this recipe differs from mmsegmentation's.
"""

from ml_collections import ConfigDict

from dpanet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dataset = "ade20k"
    config.data.crop_size = (512, 512)
    config.data.base_size = 683  # the long side of a 4:3 image whose short one is 512
    config.data.scale_range = (0.5, 2.0)
    config.data.cat_max_ratio = 0.75
    config.data.color_jitter = 0.5

    config.model.backbone = "resnet50"

    config.optimizer.lr = 0.01
    config.optimizer.head_lr_multiplier = 1.0
    config.optimizer.weight_decay = 5e-4
    config.training.batch_size = 16
    config.training.epochs = 0
    config.training.steps = 80_000
    config.evaluation.every_epochs = 6
    config.evaluation.protocol = "slide"  # images of hundreds of sizes, and one compiled shape
    config.evaluation.base_size = 683
    return config
