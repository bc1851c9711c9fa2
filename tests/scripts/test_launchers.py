"""The launchers: what they print, what they run, the exit status, and signals.

Programs that are not here (gcloud, srun, sbatch) and the runs themselves are stood in for by shell scripts.
"""

import contextlib
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import flags

from dpanet_jax.__main__ import main
from dpanet_jax.command_line import config_flag, host_flags, parse, string_flag

SCRIPTS = Path(__file__).parents[2] / "scripts"
LAUNCHERS = ("launch_gpus", "launch_slurm", "launch_tpu")
# Spaces, brackets, quotes and what a shell would replace.
RUN = (
    "train",
    f"--config={SCRIPTS.parent}/configs/folder.py",
    "--config.data.crop_size=(768, 768)",
    '--workdir=it\'s $HOME/a `run` \\ "of" *',
)

# Writes down its name, its GPUs and its words. Then it runs the command that --wrap holds, or that --command
# holds for each of two hosts; or it is the run itself: waits for a signal where WAITS is set, though not for
# ever, and ends with STATUS, or, of process 1, at once with STATUS_1.
STAND_IN = r"""#!/bin/sh
name=$(basename "$0")
file=$RECORDS/$name.$$
printf '%s\0' "$name" "$CUDA_VISIBLE_DEVICES" "$@" >"$file"
status=${STATUS:-0}
for word in "$@"; do
  case $word in
    --process_id=1) if [ -n "$STATUS_1" ]; then status=$STATUS_1 WAITS=; fi ;;
    --wrap=*) exec sh -c "${word#*=}" ;;
    --command=*)
      HOME=$RECORDS/../host0 sh -c 'cd && eval "$0"' "${word#*=}" &
      HOME=$RECORDS/../host1 sh -c 'cd && eval "$0"' "${word#*=}" || status=$?
      wait $! || status=$?
      exit "$status" ;;
  esac
done
if [ "$name" = srun ]; then
  while [ "$1" != python ]; do shift; done
  exec "$@"
fi
trap 'echo TERM >>"$file.signals"; exit 5' TERM
trap 'echo INT >>"$file.signals"; exit 6' INT
trap 'echo HUP >>"$file.signals"; exit 6' HUP
if [ -n "$WAITS" ]; then
  touch "$file.waits"
  for i in $(seq 500); do sleep 0.02; done
  exit 9
fi
exit "$status"
"""


class Stage:
    """A folder with the stand-ins, in which a launcher is started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.records = folder, folder / "records"
        programs = folder / "programs"
        for each in (programs, self.records, *(folder / host / "dpanet_jax" for host in ("host0", "host1"))):
            each.mkdir(parents=True)
        for name in ("gcloud", "srun", "sbatch", "python"):
            (programs / name).write_text(STAND_IN)
            (programs / name).chmod(0o755)
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}", "RECORDS": str(self.records)}

    def start(self, launcher: str, *words: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [SCRIPTS / launcher, *words],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, launcher: str, *words: str, **variables: str) -> tuple[int, str, str]:
        """The exit status, and what was printed on stdout and stderr."""
        with self.start(launcher, *words, **variables) as started:
            out, error = started.communicate(timeout=60)
        return started.returncode, out, error

    def calls(self, name: str) -> list[list[str]]:
        """[GPUs, *words] of each time that a program was started."""
        files = [path for path in self.records.glob(f"{name}.*") if path.suffix[1:].isdigit()]
        return sorted(path.read_text().split("\0")[1:-1] for path in files)

    def wait_for(self, pattern: str, number: int) -> list[Path]:
        """The files with such names, when there are so many."""
        until = time.monotonic() + 30
        while len(found := sorted(self.records.glob(pattern))) < number:
            assert time.monotonic() < until, f"{len(found)} of {number} {pattern}"
            time.sleep(0.01)
        return found

    def signals(self) -> list[str]:
        """What each run has got."""
        return [path.read_text() for path in sorted(self.records.glob("*.signals"))]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def values_of(words: list[str]) -> flags.FlagValues:
    """`train`'s flags as the package itself reads them from the words after `python -m dpanet_jax`."""

    def define(values: flags.FlagValues, argv: list[str]) -> None:
        config_flag(values, argv)
        string_flag(values, "workdir", "")
        host_flags(values)

    verb, *rest = words
    assert verb == "train"
    return parse(verb, "", rest, define)


def after_python(line: str) -> list[str]:
    """The words behind `python -m dpanet_jax` of a command line, or of the one that its last word holds."""
    words = shlex.split(line)
    if "python" not in words:
        words = shlex.split(words[-1].partition("=")[2])
    start = words.index("python")
    assert words[start : start + 3] == ["python", "-m", "dpanet_jax"]
    return words[start + 3 :]


def check_values(values: flags.FlagValues, distributed: bool) -> None:
    assert values.config.data.crop_size == (768, 768)
    assert values.workdir == 'it\'s $HOME/a `run` \\ "of" *'
    assert values.config.distributed is distributed


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("words", [[], ["--dry_run"], ["--zone=here"]])
def test_without_a_verb_the_usage_is_printed(launcher: str, words: list[str], stage: Stage) -> None:
    status, out, error = stage.run(launcher, *words)
    assert (status, out) == (2, "")
    assert f"./scripts/{launcher} " in error and "--dry_run only prints" in error
    assert "#" not in error and "set -euo" not in error


def test_one_process_with_all_gpus(stage: Stage) -> None:
    status, out, _ = stage.run("launch_gpus", *RUN, "--dry_run")
    assert status == 0 and not stage.calls("*")
    values = values_of(after_python(out))
    check_values(values, distributed=False)
    assert values.coordinator is None
    assert stage.run("launch_gpus", *RUN, CUDA_VISIBLE_DEVICES="2,3")[0] == 0
    assert stage.calls("python") == [["2,3", "-m", "dpanet_jax", *RUN]]


@pytest.mark.parametrize(("given", "gpus"), [("", "012"), ("4,6,7", "467")])
def test_a_process_for_each_gpu(given: str, gpus: str, stage: Stage) -> None:
    variables = {"CUDA_VISIBLE_DEVICES": given} if given else {}
    status, out, _ = stage.run("launch_gpus", "--dry_run", "--processes=3", *RUN, **variables)
    assert status == 0 and not stage.calls("*")
    coordinators = set()
    for number, line in enumerate(out.splitlines()):
        assert line.startswith(f"env CUDA_VISIBLE_DEVICES={gpus[number]} python ")
        values = values_of(after_python(line))
        check_values(values, distributed=False)
        assert (values.num_processes, values.process_id) == (3, number)
        coordinators.add(values.coordinator)
    (coordinator,) = coordinators
    assert re.fullmatch(r"127\.0\.0\.1:\d{5}", coordinator)

    status, out, _ = stage.run("launch_gpus", "--processes=3", *RUN, **variables)
    printed = [
        ["python", gpu, *shlex.split(line)[3:]] for gpu, line in zip(gpus, out.splitlines(), strict=True)
    ]
    assert status == 0 and stage.calls("python") == [words[1:] for words in printed]


@pytest.mark.parametrize(
    ("words", "words_of_error"),
    [
        (["--processes=3"], "--processes=3, and CUDA_VISIBLE_DEVICES=0,1 names 2"),
        (["--processes=none"], "--processes=none was not understood"),
        (["--nodes=3"], "--nodes=3 was not understood: only --processes=N"),
    ],
)
def test_what_the_gpus_launcher_refuses(words: list[str], words_of_error: str, stage: Stage) -> None:
    status, out, error = stage.run("launch_gpus", *words, *RUN, CUDA_VISIBLE_DEVICES="0,1")
    assert (status, out) == (2, "") and not stage.calls("*")
    assert words_of_error in error and error.count("\n") == 1


def test_a_slurm_job(stage: Stage) -> None:
    slurm = ["--nodes=2", "--comment=two words"]
    status, out, _ = stage.run("launch_slurm", *slurm, "--dry_run", *RUN)
    assert status == 0 and not stage.calls("*")
    sbatch, *options, script = shlex.split(out)
    assert sbatch == "sbatch" and set(slurm) < set(options) and "--signal=TERM@120" in options
    assert script.startswith("--wrap=exec srun --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+")
    check_values(values_of(after_python(out)), distributed=True)
    # The job's script is for a plain shell.
    assert stage.run("launch_slurm", *slurm, *RUN)[0] == 0
    assert stage.calls("python") == [["", "-m", "dpanet_jax", *RUN, "--config.distributed=True"]]
    assert stage.run("launch_slurm", *slurm, *RUN, SLURM_CPUS_PER_TASK="12")[0] == 0
    cores = [words[2:4] for words in stage.calls("srun")]
    assert sorted(cores) == [["--cpus-per-task=12", "python"], ["python", "-m"]]


def test_within_an_allocation_of_slurm(stage: Stage) -> None:
    status, out, _ = stage.run("launch_slurm", "--ntasks=2", "--dry_run", *RUN, SLURM_JOB_ID="7")
    assert status == 0 and not stage.calls("*")
    assert shlex.split(out)[:4] == ["srun", "--kill-on-bad-exit=1", "--ntasks=2", "python"]
    check_values(values_of(after_python(out)), distributed=True)


def test_a_tpu_slice(stage: Stage) -> None:
    gcloud = ["my-slice", "--zone=us-west4-a"]
    status, out, _ = stage.run("launch_tpu", *gcloud, "--dry_run", *RUN)
    assert status == 0 and not stage.calls("*")
    *command, _ = shlex.split(out)
    assert command == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", *gcloud, "--worker=all"]
    check_values(values_of(after_python(out)), distributed=True)
    # Both hosts run it, in the checkout.
    (stage.folder / "host1" / "of mine").mkdir()
    (stage.folder / "host0" / "of mine").mkdir()
    assert stage.run("launch_tpu", *gcloud, *RUN, DPANET_DIR="of mine")[0] == 0
    assert stage.calls("python") == 2 * [["", "-m", "dpanet_jax", *RUN, "--config.distributed=True"]]


def test_the_commands_of_the_docs(stage: Stage) -> None:
    page = (SCRIPTS.parent / "docs" / "launching.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^(?:PYTHON=\S+ |(CUDA_\w+)=(\S+) )?\./scripts/(launch_\w+) (.*)$", page, re.M)
    verbs = []
    for name, value, launcher, words in commands:
        words = words.replace("configs/", f"{SCRIPTS.parent}/configs/")
        status, out, error = stage.run(
            launcher, "--dry_run", *shlex.split(words), **({name: value} if name else {})
        )
        assert status == 0, error
        verb, *rest = after_python(out.splitlines()[0])
        assert verb == "evaluate" or values_of([verb, *rest]).workdir
        verbs.append(verb)
    assert len(verbs) == 5 and set(verbs) == {"train", "evaluate"}


@pytest.mark.parametrize("launcher", ["launch_slurm", "launch_tpu"])
def test_evaluate_joins_a_cluster_by_its_own_flag(
    launcher: str, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--workdir=run"]
    assert stage.run(launcher, "name", *words)[0] == 0
    assert stage.calls("python")[0] == ["", "-m", "dpanet_jax", *words, "--distributed"]
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "--distributed: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["launch_gpus"], {}),
        (["launch_gpus", "--processes=3"], {}),
        (["launch_slurm"], {"SLURM_JOB_ID": "7"}),
        (["launch_slurm"], {}),
        (["launch_tpu", "my-slice"], {}),
    ],
)
def test_the_exit_status_is_the_runs(words: list[str], variables: dict[str, str], stage: Stage) -> None:
    assert stage.run(*words, *RUN, **variables, STATUS="7")[0] == 7


def test_one_process_that_fails_is_enough(stage: Stage) -> None:
    assert stage.run("launch_gpus", "--processes=3", *RUN, STATUS_1="7")[0] == 7
    assert stage.signals() == []


def test_when_one_process_fails_those_that_do_not_notice_are_stopped(stage: Stage) -> None:
    assert stage.run("launch_gpus", "--processes=3", *RUN, STATUS_1="7", WAITS="yes")[0] == 7
    assert stage.signals() == ["TERM\n", "TERM\n"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("words", "runs", "variables"),
    [
        (["launch_gpus"], 1, {}),
        (["launch_gpus", "--processes=3"], 3, {}),
        (["launch_slurm"], 1, {"SLURM_JOB_ID": "7"}),
        (["launch_tpu", "my-slice"], 2, {}),
    ],
)
def test_a_signal_reaches_the_run(
    words: list[str], runs: int, variables: dict[str, str], number: signal.Signals, stage: Stage
) -> None:
    """Once: a second signal ends a run at once. A launcher that has become the run passes on what it gets."""
    with stage.start(*words, *RUN, **variables, WAITS="yes") as started:
        stage.wait_for("python.*.waits", runs)
        # To the whole group, as a terminal does.
        os.killpg(started.pid, number)
        started.communicate(timeout=60)
    becomes_the_run = words == ["launch_gpus"] or "SLURM_JOB_ID" in variables
    expected = number.name.removeprefix("SIG") if becomes_the_run else "TERM"
    assert stage.signals() == runs * [f"{expected}\n"]
    assert started.returncode == (5 if expected == "TERM" else 6)


# What SLURM's srun does: the same command for each task, which finds its number in the environment.
TWO_TASKS = r"""#!/bin/sh
while [ "$1" != python ]; do shift; done
for task in 0 1; do
  SLURM_STEP_NODELIST=127.0.0.1 SLURM_NTASKS=2 SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
done
wait
"""
JOINS = """
import logging
from dpanet_jax import hosts

said = []
logger = logging.getLogger("jax._src.distributed")
logger.setLevel(logging.INFO)
logger.addFilter(lambda record: said.append(record.getMessage()))
hosts.join_cluster(60)
(devices,) = [words for words in said if "visible devices" in words]
print(f"task {hosts.index()} of {hosts.count()}: {devices.rpartition(' ')[2]}", flush=True)
"""


def test_jax_finds_the_tasks_of_a_job(stage: Stage) -> None:
    """Real processes, two jobs at once: each task has a GPU, or those that JAX_LOCAL_DEVICE_IDS names."""
    programs = stage.folder / "programs"
    (programs / "srun").write_text(TWO_TASKS)
    (programs / "python").write_text(f"#!{sys.executable}{JOINS}")
    root = str(SCRIPTS.parent)
    jobs = []
    for devices in ("", "0,1,2,3"):
        variables = {"SLURM_JOB_ID": str(_job_with_a_free_port()), "JAX_LOCAL_DEVICE_IDS": devices}
        jobs.append(stage.start("launch_slurm", *RUN, **variables, PYTHONPATH=root, JAX_PLATFORMS="cpu"))
    printed = [job.communicate(timeout=60) for job in jobs]
    found = [sorted(line for line in out.splitlines() if line.startswith("task")) for out, _ in printed]
    assert found == [
        ["task 0 of 2: 0", "task 1 of 2: 1"],
        ["task 0 of 2: 0,1,2,3", "task 1 of 2: 0,1,2,3"],
    ], printed


def _job_with_a_free_port() -> int:
    """The number of a job, of which JAX makes the port 61440 + number % 4096."""
    while True:
        number = random.randrange(1, 4096)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", 61440 + number))
            return number
