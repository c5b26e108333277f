#!/usr/bin/env bash
# Configures and builds ldmtune:
#
#   jobs/build.sh [--preset NAME] [TARGET ...]
#
#   --preset NAME   release (the default, in build/), debug (build-debug/), sanitize (build-sanitize/) or cuda (build-cuda/)
#   TARGET          what to build, such as ldmtune or core_tests; everything if none is given
#
# Uses as many compiler processes as there are cores, fewer where memory is short (about 1.5 GB each);
# LDMTUNE_BUILD_JOBS overrides. Torch_DIR and LDMTUNE_PYTHON are handed to CMake where they are set.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

preset=release
case "${1:-}" in
  --preset) preset="${2:?--preset needs a name}"; shift 2 ;;
  -h | --help) usage "${BASH_SOURCE[0]}"; exit 0 ;;
esac
case "$preset" in
  release) folder="$LDMTUNE_ROOT/build" ;;
  debug | sanitize | cuda) folder="$LDMTUNE_ROOT/build-$preset" ;;
  *) die 2 "--preset: expected release, debug, sanitize or cuda, found '$preset'" ;;
esac

build_jobs() {
  local cores memory
  cores="$(env -u OMP_NUM_THREADS nproc)"  # nproc would take the threads a rank for the cores
  memory="$(awk '/MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo)"
  [ "$memory" -ge 1 ] || memory=1
  echo $((cores < memory ? cores : memory))
}

settings=("-DLDMTUNE_TEST_PYTHON=$(ldmtune_python)")
[ -z "${Torch_DIR:-}" ] || settings+=("-DTorch_DIR=$Torch_DIR")
[ -z "${LDMTUNE_PYTHON:-}" ] || settings+=("-DLDMTUNE_PYTHON=$(command -v "$LDMTUNE_PYTHON")")
# A LibTorch that CMake remembers but that is gone (a new .venv, another module) must be looked for again.
remembered="$(sed -n 's/^LDMTUNE_TORCH_ROOT:[A-Z]*=//p' "$folder/CMakeCache.txt" 2>/dev/null || true)"
[ -z "$remembered" ] || [ -e "$remembered/include" ] || settings+=("-ULDMTUNE_TORCH_ROOT")

cd "$LDMTUNE_ROOT"
cmake --preset "$preset" "${settings[@]}"
jobs="${LDMTUNE_BUILD_JOBS:-$(build_jobs)}"
say "building ${*:-everything} in ${folder#"$LDMTUNE_ROOT"/}/ with $jobs compiler processes"
ninja -C "$folder" -j "$jobs" "$@"
