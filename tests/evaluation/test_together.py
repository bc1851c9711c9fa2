"""Which images share a batch: all of them once, bounded, by windows whatever their sizes."""

import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dpanet_jax.data.classes import Classes
from dpanet_jax.evaluation import predict, together
from dpanet_jax.evaluation.protocols import make


def names(count, start=0):
    return [Path(str(i)) for i in range(start, start + count)]


def test_images_of_any_sizes_up_to_so_many_pixels_and_images(monkeypatch):
    devices = jax.local_device_count()
    monkeypatch.setattr(together, "_IMAGES", 2)
    monkeypatch.setattr(together, "_PIXELS", 100)
    unread = Path("unread")
    sizes = {(2, 3): names(20), (10 * devices, 9): names(2, 20), (30 * devices, 9): names(1, 22)}
    found = list(together.of_any_sizes({**sizes, unread: [unread]}))
    assert sum((batch for batch, _ in found), []) == [*names(23), unread]
    assert all(rows == len(batch) <= 2 * devices for batch, rows in found)
    # Small ones by their number; a large one where there is room; each of the others by itself.
    assert [rows for _, rows in found] == [16, 5, 1, 1, 1]


@pytest.mark.parametrize("protocol", ["slide", "center_crop"])
def test_windows_of_images_of_several_sizes_share_batches(protocol, threshold, tmp_path):
    """Sixteen images of sixteen sizes, a window each, on eight devices: two full batches."""
    files = {}
    for i in range(16):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((3 + i, 20 - i, 3), 16 * i, np.uint8)).save(path)
        files[Path(path.stem)] = path
    made, shapes = make(protocol, threshold(), crop_size=(20, 20)), []
    for name in ("_probabilities", "_ids"):
        if protocol == "center_crop" or name == "_probabilities":
            compiled = getattr(made, name)

            def counted(variables, pixels, extent, compiled=compiled):
                shapes.append(pixels.shape)
                return compiled(variables, pixels, extent)

            setattr(made, name, counted)
    classes = Classes.from_ids(["a", "b", "c"], [(9, 0, 0), (0, 9, 0), (0, 0, 9)])
    model = types.SimpleNamespace(
        protocol=made, classes=classes, device_variables=made.put(threshold.variables)
    )
    assert predict.predict_files(model, files, tmp_path / "out").images == 16
    assert shapes == 2 * [(8, 20, 20, 3)]
