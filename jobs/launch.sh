#!/usr/bin/env bash
# Starts a program on MPI ranks of this machine:
#
#   jobs/launch.sh [-n RANKS] PROGRAM [ARGUMENT ...]
#
# As mpirun, with what one or two cores, containers and root need, and with a soft stop: SIGTERM, SIGINT (Ctrl-C) and
# SIGUSR2 reach the ranks as SIGUSR2, on which ldmtune writes a checkpoint and exits with 85. (mpirun itself would
# kill the ranks a second after SIGTERM.) A second Ctrl-C ends the ranks at once. Exits with mpirun's code.
# RANKS is 2 unless -n or LDMTUNE_RANKS says otherwise.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

ranks="${LDMTUNE_RANKS:-2}"
case "${1:-}" in
  -n) ranks="${2:?-n needs a number of ranks}"; shift 2 ;;
  -h | --help) usage "${BASH_SOURCE[0]}"; exit 0 ;;
esac
[ $# -gt 0 ] || die 2 "nothing to run; expected: jobs/launch.sh [-n RANKS] PROGRAM [ARGUMENT ...]"
[[ "$ranks" =~ ^[1-9][0-9]*$ ]] || die 2 "-n: expected a number of ranks, found '$ranks'"
command -v mpirun >/dev/null || die 2 "mpirun is not on PATH: run jobs/setup.sh, or load your site's Open MPI module"

# A session of its own keeps the terminal's Ctrl-C from reaching mpirun before the ranks were asked to save.
supervise setsid mpirun --oversubscribe --bind-to none -n "$ranks" "$@"
