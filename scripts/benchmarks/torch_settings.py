"""What PyTorch is set to before it is measured: its fastest, with the threads and the precision of JAX."""

import contextlib

import jax

from dpanet_jax import cores

# JAX's names of true float32, as `jax_default_matmul_precision` has them.
_FLOAT32 = ("float32", "highest")


def set_up(device: str) -> None:
    """Sets the whole process; every way of PyTorch's calls it first. device: "cpu" or "cuda".

    float32 is TF32 on a GPU, as by default in JAX, unless JAX is set to true float32. cuDNN tries its
    algorithms and keeps the fastest.
    """
    import torch

    torch.set_num_threads(cores.usable())
    tf32 = jax.config.jax_default_matmul_precision not in _FLOAT32  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = device != "cpu"


def computing_in(dtype: str, device: str) -> contextlib.AbstractContextManager[object]:
    """Within it PyTorch computes in "float32", as it is, or "bfloat16", by autocast."""
    import torch

    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=getattr(torch, dtype))
