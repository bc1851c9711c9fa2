"""What docs/pytorch.md compares with PyTorch: small crops of CamVid at half resolution, a few steps.

python -m dpanet_jax prepare --dataset=camvid --source=DIR
python -m dpanet_jax compare --config=configs/parity.py --torch=random --split=test \
    --config.model.backbone=resnet101

Hardware: two CPU cores, 10 GB; 5 to 20 minutes a network. Expected result: docs/pytorch.md.
"""

from ml_collections import ConfigDict

from dpanet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dataset = "camvid"
    config.data.crop_size = (65, 97)
    config.data.base_size = 240
    config.evaluation.base_size = 240

    # Ten steps from random weights multiply a rounding, at 0.003 by 10^7 in a ResNet-50.
    config.optimizer.lr = 0.001
    # A ResNeSt needs 8: its batch norm over one value an image is ill-conditioned with fewer.
    config.training.batch_size = 4
    # The schedule's length, so that it decays within the ten steps that are compared.
    config.training.steps = 20
    return config
