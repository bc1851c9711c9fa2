"""What one process compiles the next one finds; unless it is off, set up otherwise, or cannot be kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import dpanet_jax
from dpanet_jax import compilation_cache, paths
from dpanet_jax.errors import DPANetError

ROOT = Path(__file__).parents[1]

# Predicts with a tiny network: prints how much was compiled and how much found, and the numbers.
SCRIPT = """
import collections, json
import jax, numpy as np
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event.rpartition("/")[-1]]))
from dpanet_jax import compilation_cache, models
from dpanet_jax.evaluation import protocols
jax.numpy.ones(3) + 1  # As in a notebook that has used JAX before.
compilation_cache.enable()
seen.clear()
model = models.build(3, backbone="resnet18", width=2, output_stride=32, name="fcn", auxiliary=False)
variables = models.init_variables(model, jax.random.key(0), (32, 32))
protocol = protocols.make("whole", model)
image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(1, 32, 32, 3)
found = protocol.probabilities(image, protocol.put(variables))
print(json.dumps([seen["cache_misses"], seen["cache_hits"], found.tobytes().hex()]))
"""


def run(home: Path, **variables: str) -> tuple[int, int, str, str]:
    """(programs compiled, programs found, the bytes of the numbers, what was said) of a new process."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("JAX_COMP", "JAX_PERS", "DPANET_", "XDG_"))
    }
    environment |= {
        "HOME": str(home),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    return *json.loads(last), "\n".join(said) + done.stderr


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    """Nor does it say anything, or find other numbers; the folder is the machine's, for its user alone."""
    compiled, found, numbers, said = run(tmp_path)
    assert compiled > 3 and found == 0 and said == ""
    assert run(tmp_path) == (0, compiled, numbers, "")
    (folder,) = (tmp_path / ".cache/dpanet_jax/compiled").iterdir()
    assert folder.name == compilation_cache.kind_of_machine() and folder.stat().st_mode & 0o077 == 0
    assert len(list(folder.glob("*-cache"))) >= compiled and not list(folder.glob("probe*"))
    # Switched off, it neither reads what is there nor writes elsewhere.
    before = sorted(tmp_path.rglob("*"))
    assert run(tmp_path, DPANET_COMPILATION_CACHE="0") == (0, 0, numbers, "")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    compiled, found, _, said = run(tmp_path, DPANET_COMPILATION_CACHE=str(tmp_path / "file"))
    assert (compiled, found) == (0, 0)
    assert said.startswith(f"what JAX compiles is not kept: {tmp_path / 'file'}/jax-") and "\n" not in said
    assert said.endswith("Not a directory; DPANET_COMPILATION_CACHE names another folder, or is 0")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A process in which nobody has set up a cache; what `enable` sets is undone."""
    names = ("jax_compilation_cache_dir", compilation_cache._MINIMUM)
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv(compilation_cache.VARIABLE, raising=False)
    monkeypatch.delenv(compilation_cache._MINIMUM.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache/dpanet_jax/compiled" / compilation_cache.kind_of_machine()
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize("word", ["0", "off", "False", "NO"])
def test_off(word: str, unset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compilation_cache.VARIABLE, word)
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None and not unset.exists()


@pytest.mark.parametrize("word", ["", "1", "on"])
def test_on(word: str, unset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compilation_cache.VARIABLE, word)
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == str(unset) and unset.is_dir()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_what_the_user_has_set_stays(unset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = str(tmp_path / "own")
    jax.config.update("jax_compilation_cache_dir", own)
    jax.config.update(compilation_cache._MINIMUM, 7.0)
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == own
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv(compilation_cache._MINIMUM.upper(), "7")
    monkeypatch.setenv(compilation_cache.VARIABLE, str(tmp_path / "mine"))
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine" / unset.name)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7 and not unset.exists()


@pytest.mark.parametrize("way", ["load", "train"])
def test_load_and_train_switch_it_on(way: str, unset: Path, tmp_path: Path) -> None:
    """Before anything is compiled: here they find nothing to work on."""
    from dpanet_jax.config import default_config
    from dpanet_jax.training import loop

    with pytest.raises(DPANetError):
        if way == "load":
            dpanet_jax.load(tmp_path / "nothing")
        else:
            loop.train(default_config(), tmp_path / "run")
    assert jax.config.jax_compilation_cache_dir == str(unset)


def test_another_processor_or_jax_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {compilation_cache.kind_of_machine()}
    monkeypatch.setattr(compilation_cache, "_processor", lambda: ["flags : sse2 avx512f"])
    names.add(compilation_cache.kind_of_machine())
    monkeypatch.setattr(compilation_cache, "_processor", lambda: [])
    names.add(compilation_cache.kind_of_machine())
    monkeypatch.setattr(jax, "__version__", "9.9")
    names.add(compilation_cache.kind_of_machine())
    assert len(names) == 4 and all("/" not in name for name in names)


def test_the_cache_folder_is_the_system_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.cache_folder() == tmp_path / ".cache/dpanet_jax"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert paths.cache_folder() == tmp_path / "Library/Caches/dpanet_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert paths.cache_folder() == tmp_path / "elsewhere/dpanet_jax"
