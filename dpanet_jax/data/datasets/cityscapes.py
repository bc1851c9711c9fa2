"""The 19 classes of Cityscapes, which `streets` draws too."""

from dpanet_jax.data.classes import Classes

# Names, colours and raw ids as the Cityscapes authors publish them (cityscapesScripts, labels.py).
_TABLE = (
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12),
    ("fence", (190, 153, 153), 13),
    ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19),
    ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21),
    ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23),
    ("person", (220, 20, 60), 24),
    ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27),
    ("bus", (0, 60, 100), 28),
    ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32),
    ("bicycle", (119, 11, 32), 33),
)
CITYSCAPES = Classes.from_ids(
    names=[name for name, _, _ in _TABLE],
    colors=[color for _, color, _ in _TABLE],
    ids=[raw_id for _, _, raw_id in _TABLE],
    ignored_ids=range(34),
)
