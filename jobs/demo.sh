#!/usr/bin/env bash
# From a clean clone to a report: which hypernetwork structure learns to draw like a pencil?
#
#   jobs/demo.sh [--fresh] [--short] [--ranks N]
#
#   --fresh     remove runs/demo first; otherwise the demo goes on where it stopped, and what is done is not done again
#   --short     a few updates a trial, in runs/demo-short: to see that everything works, not to judge the result
#   --ranks N   MPI ranks (2); the results have the same bits on 1 or 2
#
# Installs what is missing (jobs/setup.sh), builds, turns the emoji of datasets/ into latents, trains four hypernetworks
# (jobs/demo.sweep.cfg), interrupts and resumes a training to show that its bits do not change, and writes
# runs/demo/report.html, results.csv and best.pt. On two cores: about five minutes after the build.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$LDMTUNE_ROOT"

short=false
fresh=false
ranks=2
while [ $# -gt 0 ]; do
  case "$1" in
    --fresh) fresh=true ;;
    --short) short=true ;;
    --ranks) ranks="${2:?--ranks needs a number}"; shift ;;
    -h | --help) usage "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die 2 "unknown option '$1'; expected --fresh, --short or --ranks N" ;;
  esac
  shift
done
case "$ranks" in 1 | 2) ;; *) die 2 "--ranks: expected 1 or 2 (jobs/demo.sweep.cfg has two leaves), found '$ranks'" ;; esac

folder=runs/demo
stop_after=60
compare_at=100
sweep_options=()
if $short; then
  folder=runs/demo-short
  stop_after=6
  compare_at=10
  sweep_options=(--data "$folder/pencil.latents" --validation.adjacent "$folder/adjacent.latents" --sweep.output "$folder"
    --train.max_train_steps 20 --train.checkpointing_steps "$compare_at" --validation.steps 10 --validation.max_images 4
    --sample.steps 0 --sweep.pictures 2)
fi

prepare() {  # prepare STYLE OUTPUT [OPTION ...]: a dataset of the concepts that the base knows
  local images="datasets/emoji/$1" output="$2"
  shift 2
  if [ -e "$output/index.json" ]; then
    say "$output is there"
    return
  fi
  say "preparing $output from $images"
  jobs/launch.sh -n "$ranks" build/ldmtune prepare --base datasets/emoji-base --images "$images" --known_only --output "$output" "$@"
}

sweep() { jobs/launch.sh -n "$ranks" build/ldmtune sweep --config jobs/demo.sweep.cfg "${sweep_options[@]}" "$@"; }
analysis() { PYTHONPATH="$LDMTUNE_ROOT/analysis" "$(ldmtune_python)" -m ldmtune_analysis "$@"; }

# Runs a training that is meant to stop early: exit code 85 says that it wrote a checkpoint and would go on.
train_interrupted() {
  local code=0
  jobs/launch.sh "$@" 2>"$folder/interrupted.log" || code=$?
  [ "$code" -eq 85 ] && return
  cat "$folder/interrupted.log" >&2
  die 1 "expected exit code 85 (interrupted with a checkpoint) from: $*; found $code"
}

# Trains the first trial again: stops it, goes on with half the ranks, stops it at a step whose checkpoint the
# uninterrupted trial has too.
interrupt_and_resume() {
  local trial="$1" again="$folder/interrupted" name
  name="$(basename "$trial")"
  rm -rf "$again"
  say "training $name again, interrupted after $stop_after updates and resumed on one rank"
  local train=(build/ldmtune train --config "$trial/config.cfg" --output "$again" --hypernetwork.name "$name")
  train_interrupted -n "$ranks" "${train[@]}" --train.stop_after "$stop_after" --train.resume_from_checkpoint ""
  train_interrupted -n 1 "${train[@]}" --train.stop_after $((compare_at - stop_after)) --train.resume_from_checkpoint latest
}

sha256_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# Prints PASS or FAIL; the two checkpoints' files must have equal sha256.
compare_resumed() {
  local trial="$1" step file expected found
  step="checkpoints/step-$(printf '%08d' "$compare_at")"
  for file in parameters.safetensors "$(basename "$trial").pt"; do
    expected="$(sha256_of "$trial/$step/$file")"
    found="$(sha256_of "$folder/interrupted/$step/$file")"
    if [ "$expected" = "$found" ]; then
      echo "PASS  interrupted and resumed: $file of step $compare_at has the uninterrupted trial's sha256, ${expected:0:16}..."
    else
      echo "FAIL  interrupted and resumed: $file of step $compare_at has sha256 $found, the uninterrupted trial's $expected"
      failed=1
    fi
  done
}

main_job() {
  local trial
  prepare pencil "$folder/pencil.latents" --random_flip
  prepare colour "$folder/adjacent.latents" --validation_images 16 --test_images 8

  say "the sweep: jobs/demo.sweep.cfg on $ranks ranks"
  sweep run
  sweep best

  trial="$(find "$folder/trials" -maxdepth 1 -type d -name '000-*' | head -n 1)"
  interrupt_and_resume "$trial"
  analysis report "$folder"

  say "checks"
  build/ldmtune inspect "$folder/best.pt"
  compare_resumed "$trial"
  if $short; then
    echo "(a short run's losses and pictures are not judged)"
  else
    analysis check "$folder" || failed=1
  fi
}

# shellcheck disable=SC2046  # no word where there is a GPU
jobs/setup.sh --analysis $(ldmtune_torch_build)
jobs/build.sh ldmtune
if $fresh; then rm -rf "$folder"; fi
mkdir -p "$folder"

start=$SECONDS
failed=0
main_job
say "main job: $((SECONDS - start)) s; open $LDMTUNE_ROOT/$folder/report.html (results.csv and best.pt lie beside it)"
exit $failed
