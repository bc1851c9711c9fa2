"""What XLA is told beside a network's program."""

from typing import Any


def options(platform: str) -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit` for a network on such devices ("cpu", "gpu", "tpu"); None: XLA's own.

    On a CPU XLA of JAX 0.10 drops the optimization barriers before it fuses. It then computes a block's
    output anew, from those of all blocks before it in its stage, wherever that is read.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" else None
