"""The network held against its PyTorch twin, number by number: `python -m dpanet_jax compare`.

Needs PyTorch and matplotlib (the extra "torch"); nothing else in the package imports this room.
"""
