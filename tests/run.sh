#!/usr/bin/env bash
# Builds everything and runs all tests:
#
#   tests/run.sh [CTEST OPTION ...]
#
# Installs what is missing (jobs/setup.sh --tests), builds, and runs ctest, two tests at a time. Options go to ctest:
# `tests/run.sh -R model` runs what has model in its name, `tests/run.sh -R '^parity'` one kind of test.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../jobs/environment.sh"
case "${1:-}" in -h | --help) usage "${BASH_SOURCE[0]}"; exit 0 ;; esac

# shellcheck disable=SC2046  # no word where there is a GPU
"$LDMTUNE_ROOT/jobs/setup.sh" --tests $(ldmtune_torch_build)
"$LDMTUNE_ROOT/jobs/build.sh"
say "tests"
exec ctest --test-dir "$LDMTUNE_ROOT/build" --output-on-failure --no-tests=error -j "${LDMTUNE_TEST_JOBS:-2}" "$@"
