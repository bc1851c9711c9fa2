"""A training run as `python -m dpanet_jax train` starts it, until a signal: run as a program, it prints when.

    python -m benchmarks.train_start WORK FOLDER WORKDIR

WORK is a `Work` as JSON, FOLDER what `files.draw` left. Its one line is the time at which all is imported, in
seconds of `time.time()`. A line of WORKDIR/metrics.jsonl follows each step.
"""

import json
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    from benchmarks.files import config_of
    from benchmarks.networks import Work
    from dpanet_jax.training import loop
    from dpanet_jax.training.errors import Interrupted

    print(time.time(), flush=True)
    work, folder, workdir = sys.argv[1:]
    config = config_of(Work(**json.loads(work)), Path(folder))
    config.training.steps = config.evaluation.every_epochs = 10**6
    config.log_every_steps = 1
    try:
        loop.train(config, workdir)
    except Interrupted:
        sys.exit(0)
