"""DPANet with a ResNet-50 on Cityscapes, by the paper's recipe: batch 8, 300 epochs, crops of 768×768.

python -m dpanet_jax prepare --dataset=cityscapes --source=DIR
python -m dpanet_jax train --config=configs/cityscapes_resnet50.py --workdir=runs/cityscapes_resnet50 \
    --config.model.pretrained=resnet50.safetensors

Hardware: eight images of 768×768 in all; `plan` says what memory that takes. It has not been run yet.
To be held against: the paper's 60.93 on val (table 3; 57.14 from random weights) and 64.2 on test (table 2).
The paper does not say by which protocol. Other networks with this backbone: docs/datasets/cityscapes.md.
"""

from ml_collections import ConfigDict

from dpanet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dataset = "cityscapes"
    config.data.crop_size = (768, 768)
    config.data.base_size = 2048
    config.data.scale_range = (0.5, 2.0)

    config.model.backbone = "resnet50"

    config.optimizer.lr = 0.003  # the paper is silent; DANet's authors name it for such a loss at batch 8
    config.training.batch_size = 8
    config.training.epochs = 300
    config.evaluation.every_epochs = 10
    # Of the protocol `multiscale`, as others evaluate on these images.
    config.evaluation.scales = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25)
    return config
