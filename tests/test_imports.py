"""Who may import whom: the rooms import downwards only, and the light ones stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dpanet_jax"

# From the top to the bottom; a room may import those after it.
ROOMS = ["__main__", "verbs", "compare", "analysis", "training", "evaluation", "interop", "data", "streets"]
# At the bottom: everybody may import these.
BOTTOM = [
    "models",
    "checkpoint",
    "checkpoint_files",
    "checkpoint_scores",
    "compilation_cache",
    "compiler",
    "cores",
    "huge_pages",
    "checksums",
    "progress",
    "hosts",
    "paths",
    "remote",
    "leases",
    "options",
    "errors",
    "imagenet",
    "version",
]
# What the bottom's members import of each other, and nothing else of the package.
WITHIN_BOTTOM = {
    "models": {"options", "imagenet"},
    "checkpoint": {"checkpoint_files", "checkpoint_scores", "checksums", "hosts", "paths", "errors"},
    "checkpoint_files": {"checksums", "paths", "errors"},
    "checkpoint_scores": {"checkpoint_files", "checksums", "paths"},
    "compilation_cache": {"paths", "progress"},
    "compiler": set(),
    "cores": set(),
    "huge_pages": set(),
    "checksums": set(),
    "progress": {"hosts"},
    "hosts": {"errors", "version"},
    "paths": {"errors", "remote"},
    "remote": {"errors"},
    "leases": {"errors", "remote"},
    "options": {"errors"},
    "errors": set(),
    "imagenet": set(),
    "version": set(),
}
# The config reads the options that the rooms declare, and is read where a run is put together or read again.
CONFIG_READERS = {
    "command_line",
    "config_reference",
    "verbs.compare",
    "verbs.prepare",
    "verbs.train",
    "analysis.cost",
    "analysis.plan",
    "analysis.worker",
    "compare.run",
    "training.agreement",
    "training.build",
    "training.imported",
    "training.loop",
    "training.workdir",
    "training.height",
    "training.layout",
    "training.losses",
    "training.optimizer",
    "evaluation.trained",
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            yield name, path


def imported(path):
    """Names below dpanet_jax that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not node.level, f"{path}: relative import"
        else:
            continue
        for name in names:
            if name.startswith("dpanet_jax.") and name != "dpanet_jax.__version__":
                yield name.removeprefix("dpanet_jax.")


def room(name):
    return name.partition(".")[0]


MODULES = dict(modules())


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    for other in imported(MODULES[name]):
        here, there = room(name), room(other)
        where = f"{name} imports {other}"
        if there == here:
            continue
        if here == "config":
            assert there in (*BOTTOM,) or other.split(".")[1] == "options", where
        elif there == "config":
            assert name in CONFIG_READERS, where
        elif here == "config_reference":
            assert there in ("config", *BOTTOM), where
        elif here == "config_files":
            assert there in WITHIN_BOTTOM, where
        elif there == "config_files":
            assert here == "command_line", where
        elif here == "command_line":
            assert there in WITHIN_BOTTOM, where
        elif there == "command_line":
            assert here in ("__main__", "verbs"), where
        elif here in BOTTOM:
            assert there in WITHIN_BOTTOM[here], where
        elif there in ROOMS:
            assert ROOMS.index(there) > ROOMS.index(here), where
        else:
            assert there in BOTTOM, where


# What opens, makes or removes files by other means than `paths`, and why none of them can be remote.
LOCAL_ONLY = {
    "remote": "its own",
    "paths": "its own",
    "analysis.plan": "the worker's temporary folder",
    "checkpoint": "the local ones",
    "compilation_cache": "the user's cache folder",
    "data.archives": "downloads, which lie where they are prepared from: on this machine",
    "data.images": "the local ones",
    "data.finder": "the local ones",
    "data.prepare": "the local ones, and the temporary folder of what is uploaded",
    "data.staging": "the copies",
    "data.readers": "asks for the free shared memory",
    "evaluation.submission": "what `paths.replacing` made",
    "evaluation.video": "inputs by their own `open`; outputs that `paths.replacing` made",
    "interop.kinds": "weights that `files.resolve` has fetched",
    "interop.pickles": "weights that `files.resolve` has fetched",
    "training.imported": "weights that `files.resolve` has fetched",
    "training.lock": "of a local workdir",
    "training.log": "of a local workdir, or of the folder that is uploaded",
    "training.events": "of the log's folder",
    "training.upload": "the folder that is uploaded",
    "streets.write": "the source that is drawn, which is local",
}


def test_only_paths_and_what_is_local_for_sure_opens_files():
    """Else an address would be taken for a local path somewhere."""
    found = {name for name, path in MODULES.items() if opens_files(path)}
    assert found <= LOCAL_ONLY.keys(), "say why its files are local, or let `paths` open them"
    assert found >= LOCAL_ONLY.keys(), "named for nothing"


def opens_files(path):
    modules = {"shutil", "tempfile"}
    functions = {"open", "mkdtemp", "scandir", "rmtree", "mkdir", "makedirs", "rename"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import) and modules & {alias.name for alias in node.names}:
            return True
        if isinstance(node, ast.Call):
            called = node.func
            name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            # Of a file that is open already, of no file, and of a store.
            others = ("av.open", "os.open", "tensorstore.KvStore.open")
            if name in functions and ast.unparse(called) not in others:
                return True
    return False


def test_every_room_is_in_the_order():
    others = {"config", "config_files", "config_reference", "command_line"}
    assert {room(name) for name in MODULES} == {*ROOMS, *BOTTOM, *others}


def test_streets_knows_nothing_of_the_data():
    for name, path in MODULES.items():
        if room(name) == "streets":
            assert {room(other) for other in imported(path)} <= {"streets", "paths", "progress", "errors"}, (
                name
            )


def test_a_config_is_read_in_few_places():
    """A ConfigDict goes no deeper than where a run's parts are made."""
    for name, path in MODULES.items():
        if "ConfigDict" in path.read_text(encoding="utf-8"):
            allowed = {"config", "analysis.plan", "compare.run"} | {
                f"training.{module}" for module in ("agreement", "build", "loop", "imported")
            }
            assert name in allowed, name


def test_only_the_twin_its_side_of_the_comparison_and_the_reader_of_files_know_pytorch():
    known = {name for name, path in MODULES.items() if {"torch"} & top_level_imports(path)}
    assert known == {"compare.torch_side", "interop.pickles"} | {
        name for name in MODULES if name.startswith("interop.twin.") and name != "interop.twin"
    }


def top_level_imports(path):
    for_names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for_names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for_names.add(node.module.partition(".")[0])
    return for_names


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("dpanet_jax.paths", ("fsspec", "gcsfs", "etils", "tensorstore")),
        ("dpanet_jax.leases", ("tensorstore",)),
        ("dpanet_jax", ("jax", "flax", "tensorflow_datasets", "grain", "orbax")),
        ("dpanet_jax.__main__", ("jax", "flax", "tensorflow_datasets", "grain", "orbax", "optax")),
        ("dpanet_jax.data.images", ("jax", "tensorflow_datasets", "grain")),
        ("dpanet_jax.data.datasets", ("jax", "tensorflow_datasets", "grain")),
        ("dpanet_jax.data.prepare", ("jax", "tensorflow_datasets", "grain")),
        ("dpanet_jax.streets", ("jax", "tensorflow_datasets", "grain")),
        ("dpanet_jax.models", ("tensorflow_datasets", "grain", "orbax", "optax", "ml_collections", "torch")),
        ("dpanet_jax.training.loop", ("tensorflow", "matplotlib")),
    ],
)
def test_light_rooms_stay_light(module, absent):
    script = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"]], ids=" ".join)
def test_what_is_only_said_needs_nothing_heavy(argv):
    """Help answers at once: neither JAX nor what reads data is imported for it."""
    absent = ("jax", "flax", "optax", "orbax", "tensorflow_datasets", "grain", "tensorstore", "torch", "PIL")
    code = (
        "import atexit, sys; from dpanet_jax.__main__ import main;"
        f" atexit.register(lambda: print([n for n in {absent!r} if n in sys.modules], file=sys.stderr));"
        f" sys.exit(main({argv!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout and done.stderr.strip() == "[]"
