"""`streets`: street scenes drawn from a seed, with the 19 Cityscapes classes."""

from dpanet_jax.data.streets.scene import draw_scene
from dpanet_jax.data.streets.write import write_streets

__all__ = ["draw_scene", "write_streets"]
