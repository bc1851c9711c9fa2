# Sourced by the launchers: their words, and processes that end together.
# shellcheck shell=bash

# The interpreter that runs are started with, of the active environment.
PYTHON=${PYTHON:-python}

# Reads a launcher's words: those before `train` or `evaluate` are left in OWN, that verb and all behind it in RUN.
# `--dry_run` may stand anywhere, and sets DRY_RUN. Without a verb, the head of the script is printed, and it ends.
read_words() {
  OWN=() RUN=() DRY_RUN=
  local word
  for word in "$@"; do
    if [ "$word" = --dry_run ]; then
      DRY_RUN=yes
    elif [ ${#RUN[@]} -gt 0 ] || [ "$word" = train ] || [ "$word" = evaluate ]; then
      RUN+=("$word")
    else
      OWN+=("$word")
    fi
  done
  if [ ${#RUN[@]} -eq 0 ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
  fi
}

# The flag by which a run joins the hosts of a cluster that JAX finds itself.
cluster_flag() {
  if [ "${RUN[0]}" = train ]; then echo --config.distributed=True; else echo --distributed; fi
}

# Words as one line, which any POSIX shell reads back as the same words.
quoted() {
  local word line="" quote="'" escaped="'\\''"
  for word in "$@"; do
    case $word in
      "" | *[!A-Za-z0-9_./:=,@%+-]*) word=$quote${word//$quote/$escaped}$quote ;;
    esac
    line+=${line:+ }$word
  done
  printf '%s\n' "$line"
}

# Prints a command and becomes it; a dry run only prints it.
become() {
  quoted "$@"
  if [ -z "$DRY_RUN" ]; then exec "$@"; fi
}

# From here on, what asks this script to stop is noted, and calls the launcher's own `stop_run`.
pass_signals_on() {
  # shellcheck disable=SC2034 # launch_gpus reads it.
  signalled=""
  trap 'signalled=yes; stop_run' INT TERM HUP
}

# After `pass_signals_on`, waits for processes that this shell has started, and ends with the status of the first that
# failed. The others then have a few seconds to notice and to say so: `stop_run` stops those that have not.
wait_for() {
  local pid failed=0 seconds
  while [ "$failed" -eq 0 ] && running; do
    wait -n || true # A signal cuts it short.
    look_at "$@"
  done
  for ((seconds = 0; seconds < 3; seconds++)); do ! running || sleep 1; done
  ! running || stop_run
  while running; do wait || true; done
  look_at "$@"
  exit "$failed"
}

running() { [ -n "$(jobs -pr)" ]; }

# Sets `failed`, where none has failed yet, to the status of the first of these processes that has.
look_at() {
  for pid in "$@"; do
    [ "$failed" -ne 0 ] || kill -0 "$pid" 2>/dev/null || wait "$pid" || failed=$?
  done
}
