"""Files of weights: each format read and written, addresses on the Hub, and an error for all that is not one.

The Hub is a server on this machine, and each look at it is a process of its own, as huggingface_hub reads
its settings once.
"""

import hashlib
import http.server
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from dpanet_jax.errors import UsageError
from dpanet_jax.interop.files import (
    WeightsError,
    parse_address,
    read_state_dict,
    require_writable,
    resolve,
    write_state_dict,
)

# Numbers that half precision has too.
STATE_DICT = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 4,
    "bn1.bias": np.array([-0.5, 1.75], np.float32),
}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        assert one[name].dtype == other[name].dtype


def message_of(path, function=read_state_dict):
    with pytest.raises(WeightsError) as error:
        function(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_precisions_of_safetensors(tmp_path, dtype):
    """The file is put together byte by byte, after the format's description."""
    header, data = {}, b""
    kind = {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}[np.dtype(dtype).name]
    for name, value in STATE_DICT.items():
        content = value.astype(dtype).tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": value.shape, "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    read = np.float64 if dtype == np.float64 else np.float32
    assert_same(read_state_dict(path), {name: value.astype(read) for name, value in STATE_DICT.items()})


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "suffix, dtype", [("pth", "float32"), ("pt", "float16"), ("pth.tar", "bfloat16"), ("bin", "float32")]
)
def test_pickled_state_dicts(tmp_path, wrapped, suffix, dtype):
    torch = pytest.importorskip("torch")
    tensors = {k: torch.from_numpy(v.copy()).to(getattr(torch, dtype)) for k, v in STATE_DICT.items()}
    # As named_parameters() gives them, which some published files were made of.
    tensors["conv1.weight"] = torch.nn.Parameter(tensors["conv1.weight"])
    path = tmp_path / f"weights.{suffix}"
    torch.save({"state_dict": tensors, "epoch": 3} if wrapped else tensors, path)
    assert_same(read_state_dict(path), STATE_DICT)


@pytest.mark.parametrize("numpy_1", [False, True])
def test_training_checkpoints_with_a_score(tmp_path, numpy_1):
    """PyTorch-Encoding's hold NumPy's number `best_pred`, pickled by NumPy 1 under another module's name."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "model_best.pth.tar"
    weights = {k: torch.from_numpy(v.copy()) for k, v in STATE_DICT.items()}
    optimizer = torch.optim.SGD([torch.nn.Parameter(weights["bn1.bias"])], 0.1, momentum=0.9).state_dict()
    content = {"epoch": 5, "state_dict": weights, "optimizer": optimizer, "best_pred": np.float64(0.5)}
    torch.save(content, path)
    if numpy_1:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data.replace(b"cnumpy._core.", b"cnumpy.core."))
    assert_same(read_state_dict(path), STATE_DICT)


def test_absent_file_and_wrong_suffix(tmp_path):
    assert message_of(tmp_path / "no.pth") == f"{tmp_path / 'no.pth'}: there is no such file"
    assert message_of(tmp_path).startswith(f"{tmp_path}: is a folder, and no file of weights")
    path = tmp_path / "weights.npz"
    path.write_bytes(b"\x00")
    words = "a weights file ends in .safetensors, .pth, .pt, .pth.tar, .tar, .bin, .ckpt"
    assert message_of(path) == f"{path}: {words}"


@pytest.mark.parametrize(
    "content",
    [
        b"\x00not a file of weights",
        struct.pack("<Q", 10**6) + b"{}",
        b'\x5e\x00\x00\x00\x00\x00\x00\x00{"conv1.weight":{"dtype":"F32",',
        save(STATE_DICT)[:-4],
    ],
    ids=["noise", "short", "half a header", "truncated"],
)
def test_corrupt_safetensors(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert message_of(path).startswith(f"{path}: not a readable .safetensors file (")


class Code:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("by", ["pickle", "torch"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, by):
    torch = pytest.importorskip("torch")
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"
    content = {"conv1.weight": Code(marker)}
    if by == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    assert message_of(path).startswith(f"{path}: not a file of weights that is safe to read (")
    assert not marker.exists()
    # The file is as dangerous as it looks.
    torch.load(path, weights_only=False) if by == "torch" else pickle.loads(path.read_bytes())
    assert marker.exists()


def test_pickles_that_hold_no_state_dict(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    for content in ([torch.ones(2)], {"epoch": 3}, torch.ones(2), {"state_dict": [1]}, {"state_dict": None}):
        torch.save(content, path)
        assert message_of(path).startswith(f"{path}: holds no state dict (a dictionary of tensors)")
    path.write_bytes(b"\x00")
    assert message_of(path).startswith(f"{path}: not a file of weights that is safe to read (")


def test_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "weights.pth"
    path.write_bytes(b"\x80anything")
    assert message_of(path).startswith(f"{path}: reading it needs PyTorch (pip install torch)")
    save_file(STATE_DICT, tmp_path / "weights.safetensors")  # which does not need it
    assert_same(read_state_dict(tmp_path / "weights.safetensors"), STATE_DICT)


def test_what_is_written_is_read(tmp_path):
    """Arrays that do not lie row by row too: the format's writer alone would mix up their numbers."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"an older file")
    turned = STATE_DICT["conv1.weight"].transpose(3, 2, 0, 1)
    state_dict = {**STATE_DICT, "turned": turned, "double": np.array([1 / 3])}
    write_state_dict(state_dict, path)
    assert_same(load_file(path), state_dict)
    assert_same(read_state_dict(path), state_dict)
    assert os.listdir(tmp_path) == ["weights.safetensors"]


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    write_state_dict(STATE_DICT, path)

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_state_dict({"other": np.ones(3)}, path)
    assert os.listdir(tmp_path) == ["weights.safetensors"]
    assert_same(read_state_dict(path), STATE_DICT)


def test_where_nothing_can_be_written(tmp_path):
    words = "weights are written to a file that ends in .safetensors"
    assert message_of(tmp_path / "w.pth", require_writable) == f"{tmp_path / 'w.pth'}: {words}"
    path = tmp_path / "no" / "w.safetensors"
    assert (
        message_of(path, lambda p: write_state_dict({}, p)) == f"{path}: there is no folder {tmp_path / 'no'}"
    )
    (tmp_path / "w.safetensors").mkdir()
    assert message_of(tmp_path / "w.safetensors", require_writable).endswith("w.safetensors: is a folder")


def test_addresses():
    assert parse_address("hf://timm/resnet50.a1_in1k") == (
        "timm",
        "resnet50.a1_in1k",
        None,
        "model.safetensors",
    )
    assert parse_address("hf://a/b@v1.0/c/d.pth") == ("a", "b", "v1.0", "c/d.pth")
    for address in (
        "hf://",
        "hf://a",
        "hf:///b",
        "hf://a/",
        "hf://a/b/",
        "hf://a/b@",
        "hf://a/b//c",
        "hf://a/b/../c",
    ):
        words = "an address on the Hub is hf://OWNER/NAME or hf://OWNER/NAME/FILE"
        assert message_of(address, parse_address) == f"{address}: {words}"


def test_the_hub_is_not_asked_for_other_files(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert message_of("hf://a/b/config.json").startswith("hf://a/b/config.json: a weights file ends in")
    assert message_of("hf://a/b") == "hf://a/b: needs huggingface_hub: pip install huggingface_hub"
    assert resolve("local/file.pth") == Path("local/file.pth").absolute()
    assert resolve("~/file.pth") == Path.home() / "file.pth"


@pytest.mark.parametrize("address", ["az://bucket/weights.safetensors", "https://host/weights.pth"])
def test_other_addresses_are_refused_in_one_line(address):
    """And no folder of that name is made."""
    for function in (resolve, read_state_dict, lambda path: write_state_dict(STATE_DICT, path)):
        with pytest.raises(UsageError) as error:
            function(address)
        assert str(error.value).startswith(f"{address}: only local paths") and "\n" not in str(error.value)


class Hub(http.server.BaseHTTPRequestHandler):
    """What hf_hub_download asks of a server: HEAD and GET of OWNER/NAME/resolve/REVISION/FILE."""

    files = {
        ("timm/resnet", "model.safetensors"): save(STATE_DICT),
        ("timm/resnet", "parts/bn.safetensors"): save({"bn1.bias": STATE_DICT["bn1.bias"]}),
        ("timm/resnet", "denied.safetensors"): b"denied",
    }

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        owner, name, _, revision, *file = [*self.path.strip("/").split("/"), "", "", ""]
        repository = f"{owner}/{name}"
        content = self.files.get((repository, "/".join(file).strip("/")))
        denied = self.command == "GET" and content == b"denied"
        if content is None or denied or revision != "main":
            known = any(repository == other for other, _ in self.files)
            missing = "EntryNotFound" if revision == "main" else "RevisionNotFound"
            self.send_response(403 if denied else 404)
            if not denied:
                self.send_header("X-Error-Code", missing if known else "RepoNotFound")
            content = b""
        else:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0123456789" * 4)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, *args):
        pass


CLIENT = """
import json, sys, time
from dpanet_jax.interop.files import WeightsError, read_state_dict
time.sleep = lambda seconds: None  # huggingface_hub waits 23 s before it gives a connection up
answers = {}
for address in sys.argv[1:]:
    try:
        answers[address] = {name: value.tolist() for name, value in read_state_dict(address).items()}
    except WeightsError as error:
        answers[address] = str(error)
print(json.dumps(answers))
"""


@pytest.fixture
def ask(tmp_path):
    """A function that reads addresses in a process of its own, from the Hub at a port of this machine."""
    pytest.importorskip("huggingface_hub")

    def ask(port, *addresses, **settings):
        ours = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        ours |= {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": f"http://127.0.0.1:{port}", **settings}
        command = [sys.executable, "-W", "error", "-c", CLIENT, *addresses]
        done = subprocess.run(command, env=ours, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


def test_the_hub(ask):
    """Downloaded, then from the cache with nobody there; and every way of failing on one line."""
    everything = {name: value.tolist() for name, value in STATE_DICT.items()}
    whole, part = "hf://timm/resnet", "hf://timm/resnet@main/parts/bn.safetensors"
    answers = {whole: everything, part: {"bn1.bias": everything["bn1.bias"]}}
    failing = {
        "hf://timm/resnet/no.pth": "the repository timm/resnet has no file no.pth",
        "hf://timm/no": "there is no repository timm/no, or it is private",
        "hf://timm/resnet@v9": "the repository timm/resnet has no revision v9",
        "hf://ti mm/resnet": "ti mm/resnet is no name of a repository",
        "hf://timm/resnet/denied.safetensors": "cannot be downloaded (",
    }
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        online = ask(server.server_port, *answers, *failing)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    for address, words in failing.items():
        assert online[address].startswith(f"{address}: {words}") and "\n" not in online[address]
    assert {address: online[address] for address in answers} == answers

    with socket.socket() as taken:  # bound and not listening: nobody can answer there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        absent = "hf://timm/resnet/other.safetensors"
        for settings, reason in (({}, "ConnectError"), ({"HF_HUB_OFFLINE": "1"}, "OfflineModeIsEnabled")):
            unplugged = ask(port, *answers, absent, **settings)
            words = f"{absent}: is not in the cache, and the Hub cannot be reached ({reason}: "
            assert unplugged.pop(absent).startswith(words)
            assert unplugged == answers
