"""Your own images: copy this file and change what is yours. docs/your_own_data.md shows the folder.

python -m dpanet_jax prepare --dataset=folder --source=DIR
python -m dpanet_jax train --config=configs/folder.py --workdir=runs/mine

Hardware: one GPU as it stands (memory not measured yet); for a CPU start from configs/camvid_resnet18.py.
"""

from ml_collections import ConfigDict

from dpanet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dataset = "folder"  # folder/NAME, where it was prepared as folder/NAME
    config.data.base_size = 1024  # the long side of your images, about
    config.data.crop_size = (512, 512)

    config.model.backbone = "resnet50"
    config.model.pretrained = ""  # FILE.safetensors with torchvision's names: worth a lot on few images

    config.optimizer.lr = 0.003
    config.training.batch_size = 8
    config.training.epochs = 100
    config.evaluation.every_epochs = 5
    return config
