"""What JAX has compiled stays in the user's cache folder, so that the next process need not compile it.

DPANET_COMPILATION_CACHE=0 switches it off, and DPANET_COMPILATION_CACHE=FOLDER names another folder. A cache
that is set up by JAX's own variables or `jax.config` is left as it is.
"""

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

import jax

from dpanet_jax import paths
from dpanet_jax.progress import message

VARIABLE = "DPANET_COMPILATION_CACHE"
_OFF = ("0", "off", "no", "false")
_ON = ("", "1", "on", "yes", "true")
# JAX's own.
_FOLDER = "jax_compilation_cache_dir"
_ENABLED = "jax_enable_compilation_cache"
_MINIMUM = "jax_persistent_cache_min_compile_time_secs"


def enable() -> None:
    """Switches the cache on, unless the user says otherwise. A folder that cannot be written is one line.

    Nothing else follows from that: the programs are then compiled in every process.
    """
    asked = os.environ.get(VARIABLE, "")
    is_set_up = getattr(jax.config, _FOLDER) or not getattr(jax.config, _ENABLED)
    if asked.lower() in _OFF or is_set_up:
        return
    root = paths.cache_folder() / "compiled" if asked.lower() in _ON else paths.local(asked)
    folder = root / kind_of_machine()
    try:
        _require_writable(folder)
    except OSError as error:
        message(
            f"what JAX compiles is not kept: {folder}: {error.strerror}; {VARIABLE} names another folder, "
            "or is 0"
        )
        return
    jax.config.update(_FOLDER, str(folder))
    if _MINIMUM.upper() not in os.environ:
        # The many small programs take seconds together.
        jax.config.update(_MINIMUM, 0.0)


def kind_of_machine() -> str:
    """The name of the folder for what runs here: programs of another kind of processor may crash.

    It is of JAX's versions, of the machine's architecture and of the processor's model and features.
    """
    words = [platform.processor(), *_processor()]
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
    return f"jax-{jax.__version__}-{importlib.metadata.version('jaxlib')}-{platform.machine()}-{digest}"


def _processor() -> list[str]:
    """What Linux says of the first processor that its programs depend on; [] elsewhere."""
    keys = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU implementer", "CPU part")
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return []
    return [line for line in first.splitlines() if line.partition(":")[0].strip() in keys]


def _require_writable(folder: Path) -> None:
    """Makes the folder, for this user alone: whoever can write there can make this user run a program."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    probe = folder / f"probe.{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink(missing_ok=True)
