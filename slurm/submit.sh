#!/usr/bin/env bash
# Submits a sweep to Slurm: an array with an element for each trial, or for each pack of them, and a report job after it.
# With sweep.halving_factor an array for each rung, each after the one before.
#
#   slurm/submit.sh [OPTION ...] SWEEP.cfg [--section.option value ...] [-- SBATCH OPTION ...]
#
#   --pack K         train K trials together in each element, on one copy of the base model. auto: as many as an earlier
#                    submission of this sweep, else as `ldmtune sweep plan --pack auto` finds in the memory of the machine
#                    it runs on, which is this one: give a number where the compute nodes have less
#   --concurrent N   at most N elements at the same time (LDMTUNE_CONCURRENT of slurm/site.sh)
#   --elements LIST  only these, as 0,3,7-9; otherwise all that are neither finished nor in the queue
#   --no-report      without the report job
#   --dry-run        print what would be submitted
#
# Run it from the folder that the file's paths are relative to. Run it again to submit failed elements, and those alone;
# they go on from their checkpoints. Needs no GPU and no MPI: a program that does not start here plans on a compute node.
# slurm/status.sh SWEEP.cfg says how it goes; everything of a submission is in <sweep.output>/slurm/NNN/.
set -euo pipefail
LDMTUNE_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
# shellcheck source=job.sh
source "$LDMTUNE_ROOT/slurm/job.sh"

pack="" concurrent="$LDMTUNE_CONCURRENT" elements="" with_report=true dry_run=false

whole_number() { [[ "$2" =~ ^[1-9][0-9]*$ ]] || die 2 "$1: expected ${3:-}a number above 0, found '$2'"; }

read_arguments() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --pack) pack="${2:-}"; [ "$pack" = auto ] || whole_number --pack "$pack" "auto or "; shift ;;
      --concurrent) concurrent="${2:-}"; shift ;;
      --elements) elements="${2:-}"; [[ "$elements" =~ ^[0-9]+([-,][0-9]+)*$ ]] || die 2 "--elements: expected 0,3,7-9, found '$elements'"; shift ;;
      --no-report) with_report=false ;;
      --dry-run) dry_run=true ;;
      -h | --help) usage "${BASH_SOURCE[0]}"; exit 0 ;;
      -*) die 2 "unknown option '$1' before the sweep file; slurm/submit.sh --help lists them" ;;
      *) break ;;
    esac
    shift
  done
  whole_number --concurrent "$concurrent"
  config="${1:-}"
  [ -f "$config" ] || die 2 "expected a sweep file: slurm/submit.sh SWEEP.cfg; found '$config'"
  shift
  options=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
  [ $# -eq 0 ] || shift
  sbatch_options=("$@")
}

sweep_jobs() { "$(ldmtune_python)" "$LDMTUNE_ROOT/slurm/sweep_jobs.py" "$@"; }

# The ranks that these options of sbatch give a job; nothing where they do not tell. The last one of a kind counts.
ranks_of() {  # ranks_of SBATCH OPTION...
  local word previous="" nodes=1 per_node=1 tasks=""
  for word in "$@"; do
    case "$previous" in --nodes | -N | --ntasks | -n | --ntasks-per-node) word="$previous=$word" ;; esac
    case "$word" in
      --ntasks-per-node=*) per_node="${word#*=}" ;;
      --ntasks-per-node) ;;  # with its number in the next word
      --ntasks-per-*) return 0 ;;
      --nodes=* | -N=*) nodes="${word#*=}" ;;
      --ntasks=* | -n=*) tasks="${word#*=}" ;;
      -N[0-9]*) nodes="${word#-N}" ;;
      -n[0-9]*) tasks="${word#-n}" ;;
    esac
    previous="$word"
  done
  nodes="${nodes%%-*}"  # the least of "2-4"
  [[ "$nodes $per_node ${tasks:-1}" =~ ^[0-9]+\ [0-9]+\ [0-9]+$ ]] || return 0
  echo "${tasks:-$((nodes * per_node))}"
}

# Runs a command here or, where its program does not start (exit code 126 or 127: no MPI library, no container), on a compute node.
here_or_on_a_node() {
  local code=0
  "$@" || code=$?
  if [ "$code" -eq 126 ] || [ "$code" -eq 127 ]; then
    say "the program does not start here; planning on a compute node" >&2
    code=0
    srun --quiet --ntasks=1 --time=10 ${SBATCH_PARTITION:+"--partition=$SBATCH_PARTITION"} ${SBATCH_ACCOUNT:+"--account=$SBATCH_ACCOUNT"} \
      "$@" || code=$?
  fi
  return "$code"
}

plan() {  # plan [--pack K] [--ranks N]
  local code=0
  here_or_on_a_node "${ldmtune[@]}" sweep --config "$config" "${options[@]}" plan "$@" || code=$?
  [ "$code" -eq 0 ] || die "$code" "the sweep cannot be planned (see above); nothing was submitted"
}

# The report is made when all is trained, which is late to learn that its Python packages are missing.
check_analysis() {
  local said
  find_analysis
  said="$(here_or_on_a_node "${analysis_command[@]}" --help 2>&1)" ||
    die 2 "the report could not be made: $(tail -n 1 <<<"$said"); nothing was submitted" \
      "jobs/setup.sh --analysis installs what it needs (an image has it by slurm/ldmtune.def); --no-report submits the sweep without"
}

# The width that --pack auto stands for: a number, since the bits of a trial depend on it and memory differs by node and hour.
automatic_width() {
  local earlier width=""
  for earlier in "$output"/slurm/*/pack; do
    if [ -s "$earlier" ]; then width="$(<"$earlier")"; fi
  done
  # The largest pack of the plan: cut at that width, the trials fall into the same packs.
  [ -n "$width" ] || width="$(plan --pack auto | awk '$1 ~ /^[0-9]+$/ && NF - 1 > most {most = NF - 1} END {print most + 0}')"
  [ "$width" -gt 0 ] || die 1 "--pack auto: the plan names no packs; give a number"
  echo "$width"
}

new_submission() {
  local number=1
  mkdir -p "$output/slurm"
  until mkdir "$(printf '%s/slurm/%03d' "$output" $number)" 2>/dev/null; do number=$((number + 1)); done
  submission="$(cd "$(printf '%s/slurm/%03d' "$output" $number)" && pwd -P)"
}

forget_unsubmitted() {
  [ ! -e "$submission/jobs" ] || return 0
  if ! $dry_run && [ -s "$submission/rungs" ]; then cut -d ' ' -f 2 "$submission/rungs" | xargs scancel --quiet || true; fi
  rm -rf "$submission"
  rmdir --ignore-fail-on-non-empty "$output/slurm" "$output" 2>/dev/null || true
}

# What runs later is what is here now, whatever happens to the sweep file meanwhile.
write_submission() {
  printf '%s\n' "$plan_text" >"$submission/plan.txt"
  cp "$config" "$submission/sweep.cfg"
  printf '%s' "${options[@]/%/$'\n'}" >"$submission/options"
  printf '%s' "$pack" >"$submission/pack"
  if [ -n "$pack" ]; then printf '%s\n' "$packs_text" >"$submission/packs.txt"; fi
  sweep_jobs list "$submission" >"$submission/elements.tsv"
}

check_array_size() {
  local most last
  most="$(scontrol show config 2>/dev/null | sed -n 's/^MaxArraySize *= *//p')"
  last="$(tail -n 1 "$submission/elements.tsv" | cut -f 1)"
  [ -z "$most" ] || [ "$last" -lt "$most" ] ||
    die 2 "$((last + 1)) elements: this Slurm takes arrays up to $most (MaxArraySize); train several trials in each: --pack K"
}

submit() {  # submit SBATCH OPTION...: prints the job's id
  if $dry_run; then echo "sbatch $*" >&2; echo 0; else sbatch --parsable "$@" | cut -d ';' -f 1; fi
}

# A report job that still waits for older elements is replaced by one that waits for them and for the new ones.
submit_report() {
  local array=$1 previous waits_for="afterany:$1" gpu=() jobs
  for previous in "$output"/slurm/*/jobs; do
    [ -e "$previous" ] || continue
    mapfile -t jobs <"$previous"  # array, elements, report job
    if squeue --noheader --jobs "${jobs[0]}" 2>/dev/null | grep -q .; then waits_for="$waits_for:${jobs[0]}"; fi
    if ! $dry_run && [ -n "${jobs[2]:-}" ]; then scancel --quiet --state=PENDING "${jobs[2]}" 2>/dev/null || true; fi
  done
  [ -z "${SBATCH_GPUS_PER_NODE:-}" ] || gpu=(--gpus-per-node=1)
  submit --dependency="$waits_for" --output="$submission/report.log" "${gpu[@]}" "${report_options[@]}" \
    "$LDMTUNE_ROOT/slurm/report.sbatch" "$LDMTUNE_ROOT" "$submission"
}

submit_elements() {  # submit_elements ELEMENTS LOG [SBATCH OPTION ...] [-- RUNG]: prints the array's id
  local chosen=$1 log=$2 own=()
  shift 2
  while [ $# -gt 0 ] && [ "$1" != -- ]; do own+=("$1"); shift; done
  [ $# -eq 0 ] || shift
  submit --array="$chosen%$concurrent" "${own[@]}" --output="$submission/$log" "${LDMTUNE_ELEMENT[@]}" "${sbatch_options[@]}" \
    "$LDMTUNE_ROOT/slurm/element.sbatch" "$LDMTUNE_ROOT" "$submission" "$@"
}

# An array for each rung that is not judged yet; sets array and elements to the last one's.
submit_rungs() {
  local rung chosen dependency=()
  while read -r rung chosen; do
    array="$(submit_elements "$chosen" "rung-$rung-%a.log" "${dependency[@]}" -- "$rung")"
    printf '%s %s %s\n' "$rung" "$array" "$chosen" >>"$submission/rungs"
    dependency=(--dependency="afterany:$array")
    elements="$chosen"
  done <<<"$1"
}

read_arguments "$@"
check_program
command -v sbatch >/dev/null || die 2 "sbatch is not on PATH: submit from a login node of a Slurm cluster"
if $with_report; then check_analysis; fi
ranks="$(ranks_of "${LDMTUNE_ELEMENT[@]}" "${sbatch_options[@]}")"
[ -z "$ranks" ] || say "each element gets $ranks rank(s), by LDMTUNE_ELEMENT of slurm/site.sh and the options after --"
plan_text="$(plan ${ranks:+--ranks "$ranks"})"
output="$(sweep_jobs output "$config" "${options[@]}")"
if [ "$pack" = auto ]; then
  pack="$(automatic_width)"
  say "--pack auto: packs of $pack"
fi
halves=false
if grep -q '^rung [0-9]' <<<"$plan_text"; then
  halves=true
  pack="${pack:-1}"  # who trains in a rung is known when the one before is over, so its elements are packs
  [ -z "$elements" ] || die 2 "--elements: with sweep.halving_factor who trains in an element depends on the rung before; leave it out"
fi
packs_text=""
[ -z "$pack" ] || packs_text="$(plan --pack "$pack")"
new_submission
trap forget_unsubmitted EXIT
write_submission
check_array_size
if $halves; then
  elements="$(sweep_jobs rungs "$output" "$submission")"
elif [ -z "$elements" ]; then
  elements="$(sweep_jobs elements "$output" "$submission")"
fi
if [ -z "$elements" ]; then
  say "nothing to submit: every trial is finished or in the queue"
  exit 0
fi

report_options=()
for option in "${sbatch_options[@]}"; do
  case "$option" in --partition=* | --account=* | --qos=* | --reservation=*) report_options+=("$option") ;; esac
done
if $halves; then submit_rungs "$elements"; else array="$(submit_elements "$elements" element-%a.log)"; fi
report=""
if $with_report; then report="$(submit_report "$array")"; fi
$dry_run && exit 0
printf '%s\n' "$array" "$elements" "$report" >"$submission/jobs"
if $halves; then say "rungs $(cut -d ' ' -f 1 "$submission/rungs" | xargs), one after the other; the last one's is:"; fi
say "submitted array $array, elements $elements${report:+, report job $report}; logs in $submission"
say "slurm/status.sh $config${options[*]:+ ${options[*]}}   says how it goes"
