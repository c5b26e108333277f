# shellcheck shell=bash
# Sourced by the scripts of jobs/, tests/ and slurm/: where things are, and how ranks run well on one machine.
# Everything here can be overridden by setting it beforehand.

LDMTUNE_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"

# One thread a rank: thread counts change the order of sums in kernels and so the bits; more speed comes from more ranks.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# Open MPI 4 refuses to start as root (containers) without these two.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# It counts physical cores as slots and binds ranks to them: on one or two cores it would refuse or queue ranks on one core.
export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
# A rank that waits gives its core to the others.
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"
# Containers often forbid reading another process's memory; without this each transfer would first try and complain.
if [ -f /.dockerenv ] || [ -f /run/.containerenv ]; then
  export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"
fi

# Set-up puts a newer CMake there where the system's is too old.
if [ -x "$LDMTUNE_ROOT/.venv/bin/cmake" ]; then PATH="$LDMTUNE_ROOT/.venv/bin:$PATH"; fi

# The Python that set-up prepared: .venv at the repository's root if it is there, else LDMTUNE_PYTHON, else python3.
ldmtune_python() {
  if [ -x "$LDMTUNE_ROOT/.venv/bin/python" ]; then
    echo "$LDMTUNE_ROOT/.venv/bin/python"
  else
    command -v "${LDMTUNE_PYTHON:-python3}"
  fi
}

# The set-up's --cpu where no NVIDIA driver is loaded: nothing else of the CUDA build's gigabytes would be used.
ldmtune_torch_build() { [ -e /dev/nvidiactl ] || echo --cpu; }

# say TEXT...: one line of progress, told from the output of the tools by its arrow.
say() { printf '==> %s\n' "$*"; }

# die CODE TEXT...: the reason and the remedy on standard error.
die() {
  local code=$1
  shift
  printf 'error: %s\n' "$@" >&2
  exit "$code"
}

# supervise LAUNCHER [ARGUMENT ...]: runs mpirun or srun and turns SIGTERM, SIGINT and SIGUSR2 into a SIGUSR2 that the
# launcher forwards to its ranks, on which ldmtune writes a checkpoint and exits with 85. A second SIGINT ends them at
# once. Returns the launcher's exit code.
supervise() {
  local before code
  supervise_signals=0
  supervise_interrupts=0
  "$@" &
  supervise_pid=$!
  trap 'supervise_forward USR2' TERM USR2
  trap 'supervise_forward INT' INT
  # A trapped signal ends `wait` early; only a wait without one has the launcher's own exit code.
  while :; do
    before=$supervise_signals
    code=0
    wait "$supervise_pid" || code=$?
    [ "$supervise_signals" -ne "$before" ] || break
  done
  trap - TERM USR2 INT
  return "$code"
}

supervise_forward() {
  supervise_signals=$((supervise_signals + 1))
  if [ "$1" = INT ]; then supervise_interrupts=$((supervise_interrupts + 1)); fi
  if [ "$supervise_interrupts" -ge 2 ]; then
    kill -TERM "$supervise_pid" 2>/dev/null || true
  else
    [ "$supervise_signals" -gt 1 ] || echo "stopping: the ranks write a checkpoint first (a second Ctrl-C ends them at once)" >&2
    kill -USR2 "$supervise_pid" 2>/dev/null || true
  fi
}

# usage FILE: the comment at the top of a script is its help.
usage() { sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p}}' "$1"; }
