"""Street scenes drawn from a seed, with the 19 Cityscapes classes: a program of its own.

It knows nothing of data sets. Whoever writes scenes hands it the classes' names and colours.
"""

from dpanet_jax.streets.scene import draw_scene
from dpanet_jax.streets.write import write_streets

__all__ = ["draw_scene", "write_streets"]
