# shellcheck shell=bash
# Sourced by the scripts of this folder after LDMTUNE_ROOT is known: the site's settings, and what all jobs do alike.

# shellcheck source=site.sh
source "${LDMTUNE_SITE:-$LDMTUNE_ROOT/slurm/site.sh}"
# shellcheck source=../jobs/environment.sh
source "$LDMTUNE_ROOT/jobs/environment.sh"

# A job that is interrupted again and again without end must not requeue for ever.
most_restarts=100

# The program's command line without a launcher: in the image if there is one.
if [ ${#LDMTUNE_CONTAINER[@]} -eq 0 ] && [[ "$LDMTUNE_PROGRAM" != /* ]]; then LDMTUNE_PROGRAM="$LDMTUNE_ROOT/$LDMTUNE_PROGRAM"; fi
# shellcheck disable=SC2034  # used by the scripts that source this one
ldmtune=("${LDMTUNE_CONTAINER[@]}" "$LDMTUNE_PROGRAM")

check_program() {
  [ ${#LDMTUNE_CONTAINER[@]} -gt 0 ] || [ -x "$LDMTUNE_PROGRAM" ] ||
    die 2 "$LDMTUNE_PROGRAM: not there; run jobs/setup.sh --analysis and jobs/build.sh first, or set LDMTUNE_CONTAINER in slurm/site.sh"
}

# Sets analysis_command to the analysis' command line: by the image's Python, or the one that set-up prepared.
find_analysis() {
  local python root="$LDMTUNE_ROOT"
  if [ ${#LDMTUNE_CONTAINER[@]} -gt 0 ]; then
    root="${LDMTUNE_PROGRAM%/*/*}"
    python=("${LDMTUNE_CONTAINER[@]}" "$root/.venv/bin/python")
  else
    python=("$(ldmtune_python)")
  fi
  analysis_command=(env "PYTHONPATH=$root/analysis" "${python[@]}" -m ldmtune_analysis)
}

analysis() {
  find_analysis
  "${analysis_command[@]}" "$@"
}

# HDF5 locks the files that it opens, and fails where the file system knows no locks (some Lustre and NFS mounts).
choose_file_locking() {  # choose_file_locking FOLDER...
  local folder
  [ -z "${HDF5_USE_FILE_LOCKING:-}" ] || return 0
  for folder in "$@"; do
    flock --shared --nonblock "$folder" true 2>/dev/null && continue
    export HDF5_USE_FILE_LOCKING=FALSE
    say "no file locks on $folder: HDF5_USE_FILE_LOCKING=FALSE"
    return
  done
}

# Whether a job that ended with this code goes on later: 85 is a checkpoint; killed by a signal (128 and above) after it
# was asked to stop, it was still starting or already ending, or too slow, and goes on from the checkpoint before.
goes_on_later() { [ "$1" -eq 85 ] || { [ "$1" -ge 128 ] && [ "$supervise_signals" -gt 0 ]; }; }

# Whether what the job was to do is done, by its files; asked where the launcher says 0. element.sbatch looks.
work_is_done() { true; }

# Whether the job was handed back to the queue, so that the script has nothing more to do.
# shellcheck disable=SC2034  # report.sbatch asks
requeued=false

# Requeues this job, away from NODES if given.
requeue() {  # requeue WHY [NODES]
  say "$1: requeueing job $SLURM_JOB_ID"
  # shellcheck disable=SC2034
  requeued=true
  scontrol requeue "$SLURM_JOB_ID" || true  # refused where Slurm has requeued it already
  [ -z "${2:-}" ] || scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$2" || true
  # A script that ends by itself before Slurm has taken the job down might count as finished.
  sleep 60 &
  wait $! || true
}

# Runs ldmtune by a launcher so that it gets the job's signals, and requeues the job where it was interrupted.
run_or_requeue() {  # run_or_requeue LAUNCHER... -- ARGUMENT...
  local code=0 launcher=() unstarted restarts="${SLURM_RESTART_COUNT:-0}"
  while [ "$1" != -- ]; do launcher+=("$1"); shift; done
  shift
  say "$(date '+%F %T') job $SLURM_JOB_ID, start $restarts, $SLURM_NTASKS rank(s) on $SLURM_JOB_NODELIST: ${launcher[*]} ldmtune $*"
  # srun says 0 where a node refused to launch the step, or died. The first rank, on this node, removes the file.
  unstarted="$(mktemp)"
  # shellcheck disable=SC2016
  supervise "${launcher[@]}" sh -c 'rm -f "$0"; exec "$@"' "$unstarted" "${ldmtune[@]}" "$@" || code=$?
  say "$(date '+%F %T') exit code $code"
  if [ "$restarts" -lt "$most_restarts" ]; then
    if goes_on_later "$code"; then
      requeue interrupted
    elif [ "$code" -eq 0 ] && [ -e "$unstarted" ]; then
      requeue "no rank was started" "$SLURM_JOB_NODELIST"
    elif [ "$code" -eq 0 ] && ! work_is_done; then
      requeue "the launcher says 0, but the work is not done"
    fi
  fi
  if [ "$code" -eq 0 ] && { [ -e "$unstarted" ] || ! work_is_done; }; then code=1; fi
  rm -f "$unstarted"
  return "$code"
}
