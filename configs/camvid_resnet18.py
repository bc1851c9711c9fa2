"""DPANet with a ResNet-18 on CamVid (SegNet's 11 classes) at half resolution: 40 minutes on two CPU cores.

python -m dpanet_jax prepare --dataset=camvid --source=DIR
python -m dpanet_jax train --config=configs/camvid_resnet18.py --workdir=runs/camvid_resnet18 \
    --config.model.pretrained=resnet18.safetensors

Hardware and expected result: docs/results.md.
"""

from ml_collections import ConfigDict

from dpanet_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.dataset = "camvid"
    config.data.crop_size = (144, 192)
    config.data.base_size = 240  # half of SegNet's 480×360
    config.data.scale_range = (0.5, 1.5)
    config.data.color_jitter = 0.4  # most of the test split is a drive in a light that training has not

    config.model.backbone = "resnet18"
    config.model.output_stride = 8
    config.model.reduce_channels = 128

    # From sky to bicyclist: square roots of the weights of median frequency balancing, SegNet's recipe for
    # CamVid (the median class's share of the pixels, of the images that have it, over each class's own; here
    # over the training split). Those themselves put thin classes where there are none, most on buildings.
    config.loss.class_weights = (0.53, 0.45, 2.19, 0.39, 1.00, 0.65, 1.96, 1.41, 0.89, 2.53, 2.97)

    config.optimizer.lr = 0.002  # of a loss whose terms weigh 3.4 in all; at 0.005 it learns slower
    config.training.batch_size = 2
    config.training.epochs = 16
    config.evaluation.every_epochs = 4
    # Images are resized to 320×240 before the network, and its logits brought back to the labels' size.
    config.evaluation.base_size = 320
    return config
