"""DPANet with a ResNet-50 on CamVid at full resolution, output stride 8: for one GPU.

python -m dpanet_jax prepare --dataset=camvid --source=DIR
python -m dpanet_jax train --config=configs/camvid_resnet50.py --workdir=runs/camvid_resnet50 \
    --config.model.pretrained=resnet50.safetensors

Hardware: one GPU. Neither its memory nor its result has been measured yet.
"""

from ml_collections import ConfigDict

from dpanet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dataset = "camvid"
    config.data.crop_size = (360, 480)
    config.data.base_size = 480

    config.model.backbone = "resnet50"
    config.model.dtype = "bfloat16"

    config.optimizer.lr = 0.005
    config.training.batch_size = 16
    config.training.epochs = 300
    config.evaluation.every_epochs = 10
    return config
