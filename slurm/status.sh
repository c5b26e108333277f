#!/usr/bin/env bash
# What became of a sweep that slurm/submit.sh submitted:
#
#   slurm/status.sh SWEEP.cfg [--section.option value ...]
#
# One line a trial: its job, what Slurm says of it (squeue, and sacct where the site keeps accounts), and what its folder
# says: pending, running at step s, done, or failed and why. Exits with 1 if a trial failed, else 0. Needs neither the
# program nor MPI, only Python 3.6. Failed ones are submitted again, alone, by slurm/submit.sh SWEEP.cfg.
set -euo pipefail
LDMTUNE_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
source "$LDMTUNE_ROOT/jobs/environment.sh"
case "${1:-}" in -h | --help) usage "${BASH_SOURCE[0]}"; exit 0 ;; esac
config="${1:-}"
[ -f "$config" ] || die 2 "expected a sweep file: slurm/status.sh SWEEP.cfg; found '$config'"
output="$("$(ldmtune_python)" "$LDMTUNE_ROOT/slurm/sweep_jobs.py" output "$@")"
exec "$(ldmtune_python)" "$LDMTUNE_ROOT/slurm/sweep_jobs.py" status "$output"
