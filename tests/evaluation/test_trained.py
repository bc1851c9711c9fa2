"""What `load` takes for an image, and what it imports."""

import subprocess
import sys

import numpy as np
import pytest

from dpanet_jax.errors import DPANetError
from dpanet_jax.evaluation.trained import check_image


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
        "image.png",
    ],
    ids=str,
)
def test_what_is_no_image(image):
    with pytest.raises(DPANetError, match=r"must be uint8 \(height, width, 3\), RGB; got"):
        check_image(image)


def test_load_imports_neither_tfds_nor_grain():
    """Inference needs no reader of data sets: `load` and `predict` start without them."""
    script = (
        "import sys\n"
        "import dpanet_jax.evaluation.predict, dpanet_jax.evaluation.trained\n"
        "from dpanet_jax import config\n"
        "config.check_config(config.default_config())\n"
        "names = ('tensorflow_datasets', 'grain', 'tensorflow', 'torch')\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
