"""The most memory that one image takes in a protocol: the peak resident set of this process.

python scripts/protocol_memory.py --protocol=slide --width=2048 --height=1024

On the CPU backend the network's memory is the process's too. The network is a ResNet-18 at output stride 8,
thin so that the figure is the protocol's own, with untrained weights; the classes are as many as asked for.
The tiles of an image are of one size to a pixel, so the peak is reached early: --stop_after cuts a long one.
"""

import argparse
import contextlib
import resource
import signal
import sys
import time
from typing import Any

import jax
import numpy as np

from dpanet_jax import models
from dpanet_jax.evaluation import protocols
from dpanet_jax.evaluation.options import Evaluation


class _Enough(Exception):
    """The time that was given is over."""


def _stop(*_: Any) -> None:
    raise _Enough


def peak_bytes() -> int:
    """The largest resident set of this process up to here."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--protocol", default="slide", choices=list(protocols.PROTOCOLS))
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--num_classes", type=int, default=150)
    parser.add_argument("--window", type=int, default=480, help="height and width of the windows")
    parser.add_argument("--window_batch", type=int, default=1)
    parser.add_argument("--channels", type=int, default=8, help="of the network's first stage")
    parser.add_argument("--stop_after", type=int, default=0, help="seconds; 0: at the image's end")
    arguments = parser.parse_args()
    model = models.build(
        arguments.num_classes,
        backbone="resnet18",
        width=arguments.channels,
        reduce_channels=arguments.channels,
        auxiliary=False,
    )
    options = Evaluation(window=(arguments.window,) * 2, window_batch=arguments.window_batch)
    protocol = protocols.make(arguments.protocol, model, options=options)
    variables = protocol.put(models.init_variables(model, jax.random.key(0), (64, 64)))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, arguments.height, arguments.width, 3), np.uint8)
    before, start = peak_bytes(), time.perf_counter()
    done = "cut"
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(arguments.stop_after)
    with contextlib.suppress(_Enough):
        protocol.ids(image, variables)
        done = "whole"
    signal.alarm(0)
    seconds = time.perf_counter() - start
    print(
        f"{arguments.protocol}, {arguments.width}x{arguments.height}, {arguments.num_classes} classes: "
        f"peak {peak_bytes() / 2**30:.2f} GiB ({before / 2**30:.2f} GiB before the image), "
        f"{seconds:.0f} s, {done}"
    )


if __name__ == "__main__":
    main()
