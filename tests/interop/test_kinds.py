"""What people take for weights: each file is named for what it is, in one line that says what to do."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from dpanet_jax.interop.errors import WeightsError
from dpanet_jax.interop.files import read_state_dict
from dpanet_jax.interop.kinds import kind_of

ARRAYS = {"conv1.weight": np.ones((2, 3), np.float32)}


def message_of(path):
    with pytest.raises(WeightsError) as error:
        read_state_dict(path)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{path}: ") and len(message) < 600
    return message


def archive(write, **members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return out.getvalue()


def tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        file.addfile(tarfile.TarInfo("weights.pth"))
    return out.getvalue()


def npz():
    out = io.BytesIO()
    np.savez(out, a=np.ones(3))
    return out.getvalue()


INDEX = {
    "metadata": {"total_size": 100},
    "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab29\nsize 4\n"
FILES = {
    "empty": (b"", "is an empty file", "again"),
    "page": (b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>", "is a web page", "the file itself"),
    "page in capitals": (b"<HTML>\n" + b"x" * 9000, "is a web page", "the file itself"),
    "page with a mark": (b"\xef\xbb\xbf<html lang='en'>", "is a web page", "the file itself"),
    "error of a bucket": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied',
        "is a web page",
        "the file itself",
    ),
    "answer": (b"Entry not found", "is a text ('Entry not found')", "again"),
    "json answer": (b'{"error": "Repository not found"}', "is a JSON file", "Repository not found"),
    "git lfs": (LFS, "is a Git LFS pointer", "git lfs pull"),
    "index": (json.dumps(INDEX, indent=1).encode(), "the index of a model in 2 files", "torch.save("),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(600), "is an HDF5 file, as Keras and TensorFlow", "PyTorch"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\xa0\x01", "is an ONNX model", "state_dict()"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(99), "is a TensorFlow Lite model", "PyTorch"),
    "gzip": (gzip.compress(b"weights"), "is a gzip archive", "unpack it"),
    "tar": (tar(), "is a tar archive", "unpack it"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(99), "is a NumPy array", "PyTorch"),
    "npz": (npz(), "is a NumPy archive", "PyTorch"),
    "keras": (archive(0, **{"config.json": "{}", "model.weights.h5": "x"}), "is a Keras model", "PyTorch"),
    "zip": (archive(0, **{"sub__resnet50.pth": "x"}), "is a zip archive", "it holds resnet50.pth"),
    "export": (archive(0, **{"a__archive_format": "pt2"}), "a program of torch.export", "state_dict()"),
    "cut zip": (archive(0, **{"w__data.pkl": "x" * 900})[:400], "is cut short or damaged", "again"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a picture", "give the weights file"),
    "pdf": (b"%PDF-1.7" + bytes(99), "is a PDF", "give the weights file"),
    "cut safetensors": (save(ARRAYS)[:-3], "cut short: it has", "again"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ".pth.tar"])
@pytest.mark.parametrize("name", FILES)
def test_each_is_named_and_says_what_to_do(tmp_path, name, suffix):
    content, what, advice = FILES[name]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    message = message_of(path)
    assert what in message and advice in message


@pytest.mark.parametrize("name", ["hdf5", "onnx", "npz", "index", "gzip"])
def test_by_their_own_suffix_too(tmp_path, name):
    suffix = {
        "hdf5": ".h5",
        "onnx": ".onnx",
        "npz": ".npz",
        "index": ".safetensors.index.json",
        "gzip": ".gz",
    }
    path = tmp_path / f"weights{suffix[name]}"
    path.write_bytes(FILES[name][0])
    assert FILES[name][1] in message_of(path)


def test_the_content_counts_and_not_the_suffix(tmp_path):
    """.safetensors renamed, and downloads without a suffix."""
    for name in ("weights.pth", "weights.bin", "weights", "weights.safetensors.1"):
        path = tmp_path / name
        path.write_bytes(save(ARRAYS))
        assert kind_of(path) == "safetensors"
        np.testing.assert_array_equal(read_state_dict(path)["conv1.weight"], ARRAYS["conv1.weight"])


def test_pytorch_s_files_by_other_names(tmp_path):
    torch = pytest.importorskip("torch")
    for name in ("weights.safetensors", "weights", "weights.pth.tar", "weights.ckpt", "weights.model"):
        torch.save({"conv1.weight": torch.ones(2, 3)}, tmp_path / name)
        np.testing.assert_array_equal(read_state_dict(tmp_path / name)["conv1.weight"], np.ones((2, 3)))


@pytest.mark.parametrize(
    "files, what",
    [
        ([".metadata", "__0_0.distcp"], "format_utils dcp_to_torch"),
        (["zero_to_fp32.py", "latest"], "is a checkpoint of DeepSpeed"),
        (["config.json", "checkpoints", "metrics.jsonl"], "dpanet_jax export-torch --workdir="),
        (["data.pkl", "version"], "is a PyTorch file that was unpacked"),
        (["config.json", "model.safetensors"], "give a file in it, such as"),
        ([], "is a folder"),
    ],
)
def test_folders(tmp_path, files, what):
    for name in files:
        (tmp_path / name).touch()
    assert what in message_of(tmp_path)


def test_one_part_of_a_model_in_several_files(tmp_path):
    """Its arrays are read; that they are not all is then seen from their names."""
    path = tmp_path / "model-00001-of-00002.safetensors"
    save_file(ARRAYS, path)
    assert read_state_dict(path).keys() == ARRAYS.keys()


def test_a_changed_byte_in_a_weight_is_seen(tmp_path):
    """By the archive's checksums, which PyTorch itself does not look at."""
    torch = pytest.importorskip("torch")
    path, value = tmp_path / "weights.pth", torch.arange(1000.0)
    torch.save({"a": value}, path)
    content = bytearray(path.read_bytes())
    content[content.find(value.numpy().tobytes()) + 100] ^= 255
    path.write_bytes(content)
    assert (torch.load(path)["a"] != value).sum() == 1
    assert "is cut short or damaged (Bad CRC-32 for file" in message_of(path)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": value}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(read_state_dict(path)["a"], value.numpy())


def test_cut_anywhere(tmp_path):
    whole, path = save({**ARRAYS, "b": np.ones(50)}), tmp_path / "weights.safetensors"
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert message_of(path)
