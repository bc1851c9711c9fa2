# Sourced by the other scripts: finds or makes the Python environment, and sets $PYTHON to its interpreter.
#   ensure_environment [EXTRA ...]     extras of pyproject.toml that are needed besides requirements.txt

# Whether the interpreter $1 has requirements.txt and the named extras, at versions within their bounds.
environment_has() {
  "$@" <<'PYTHON' 2>/dev/null
import importlib.metadata, re, sys, tomllib
from packaging.requirements import Requirement
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
lines = [line.strip() for line in open("requirements.txt") if not line.startswith("#")]
lines += [line for extra in sys.argv[1:] for line in extras[extra]]
for requirement in map(Requirement, lines):
    if requirement.marker and not requirement.marker.evaluate():
        continue
    if not requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True):
        sys.exit(1)
PYTHON
}

# A JAX build for the GPU where the machine has one (the newer CUDA where its driver is new enough).
gpu_extra() {
  local driver
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) || true
  [ -n "$driver" ] || return 0
  if [ "${driver%%.*}" -ge 580 ] 2>/dev/null; then echo gpu-cuda13; else echo gpu; fi
}

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "dpanet_jax needs Python 3.11, 3.12 or 3.13, and none was found" >&2
  return 1
}

ensure_environment() {
  if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    if environment_has python - "$@"; then
      PYTHON=python
      return
    fi
    echo "The active environment lacks something of requirements.txt${*:+ or of the extras: $*}; using .venv instead."
  fi
  local extras extra found installed stamp
  extras=$(echo "$* $(gpu_extra)" | xargs)
  installed=yes
  stamp=.venv/.installed-$(cat requirements.txt pyproject.toml setup.py tests/constraints.txt | cksum | cut -d ' ' -f 1)
  for extra in requirements $extras; do
    [ -e "$stamp-$extra" ] || installed=no
  done
  PYTHON=$PWD/.venv/bin/python
  [ "$installed" = yes ] && return
  if [ ! -x "$PYTHON" ]; then
    found=$(find_python) || return 1
    echo "Making the environment .venv with $("$found" --version)"
    "$found" -m venv .venv || return 1
  fi
  echo "Installing into .venv (a minute or two, once)"
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --constraint tests/constraints.txt \
    --editable ".${extras:+[${extras// /,}]}" || return 1
  for extra in requirements $extras; do
    touch "$stamp-$extra"
  done
}
