"""Eight simulated devices and one cache of compiled programs for every test: set before JAX starts."""

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

import pytest  # noqa: E402


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
