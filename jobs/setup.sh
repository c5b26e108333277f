#!/usr/bin/env bash
# Installs what ldmtune is built from, and only what is missing:
#
#   jobs/setup.sh [--cpu] [--analysis] [--tests]
#
#   --cpu        the CPU build of LibTorch, where pip's default is the CUDA build (gigabytes)
#   --analysis   also what the report is made with (h5py, matplotlib, pandas)
#   --tests      also what the tests compare with (diffusers, transformers, ...) and the Slurm that they start for themselves
#
# Compiler and libraries come from Debian or Ubuntu packages; without root the line to run is printed and the exit code is 2.
# LibTorch 2.11 or newer is taken from Torch_DIR (its share/cmake/Torch) if that is set, else from a torch that
# python3 (or LDMTUNE_PYTHON) imports, else torch 2.13.0 is installed into .venv at the repository's root, where all
# Python packages go. Nothing outside the repository changes but by apt. Run it again at any time: it is quick when all is there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

torch_version=2.13.0
torch_minimum=2.11
venv="$LDMTUNE_ROOT/.venv"
active_python="${LDMTUNE_PYTHON:-python3}"

cpu_only=false
for_tests=false
requirement_files=()
for argument in "$@"; do
  case "$argument" in
    --cpu) cpu_only=true ;;
    --analysis) requirement_files+=("$LDMTUNE_ROOT/analysis/requirements.txt") ;;
    --tests) requirement_files+=("$LDMTUNE_ROOT/tests/requirements.txt"); for_tests=true ;;
    -h | --help) usage "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die 2 "unknown option '$argument'; expected --cpu, --analysis or --tests" ;;
  esac
done

# ---- Compiler and libraries ----------------------------------------------------------------------------------------

has_command() { command -v "$1" >/dev/null; }
has_module() { pkg-config --exists "$1" 2>/dev/null; }
# Headers and libraries that have no pkg-config file: the compiler's own search, then what modules put into CMake's.
has_header() {
  echo "#include <$1>" | g++ -E -x c++ - -o /dev/null 2>/dev/null && return
  on_cmake_path "include/$1"
}
has_library() {
  echo 'int main() {}' | g++ -x c++ - "-l$1" -o /dev/null 2>/dev/null && return
  on_cmake_path "lib/lib$1.so" || on_cmake_path "lib64/lib$1.so"
}
on_cmake_path() {
  local folder prefixes="${CMAKE_PREFIX_PATH:-}"
  for folder in ${prefixes//[:;]/ } ${BOOST_ROOT:-} ${HDF5_ROOT:-}; do
    [ -e "$folder/$1" ] && return
  done
  return 1
}
has_hdf5() { has_command h5cc || has_module hdf5 || has_header hdf5/serial/hdf5.h || has_header hdf5.h; }
has_font() { [ -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ] || { has_command fc-list && [ -n "$(fc-list)" ]; }; }
# ldmtune builds without it too and then keeps more memory: only worth installing where that costs nothing.
has_jemalloc() { has_module jemalloc || ! has_command apt-get; }
has_daemon() { has_command "$1" || [ -x "/usr/sbin/$1" ]; }
has_venv() { [ -x "$venv/bin/python" ] || "$active_python" -c 'import ensurepip, venv' 2>/dev/null; }

# Debian package, and how to see that what it brings is there, from wherever it came.
packages=(
  "build-essential     has_command g++"
  "cmake               has_command cmake"
  "ninja-build         has_command ninja"
  "ccache              has_command ccache"
  "pkg-config          has_command pkg-config"
  "openmpi-bin         has_command mpirun"
  "libopenmpi-dev      has_command mpicc"
  "libhdf5-dev         has_hdf5"
  "libboost-program-options-dev has_library boost_program_options"
  "libboost-log-dev    has_library boost_log"
  "libgtest-dev        has_library gtest"
  "librandom123-dev    has_header Random123/philox.h"
  "nlohmann-json3-dev  has_header nlohmann/json.hpp"
  "libpcre2-dev        has_module libpcre2-8"
  "libicu-dev          has_module icu-uc"
  "libpng-dev          has_module libpng"
  "libjpeg-dev         has_module libjpeg"
  "libwebp-dev         has_module libwebp"
  "libcairo2-dev       has_module cairo"
  "libssl-dev          has_module libcrypto"
  "libjemalloc-dev     has_jemalloc"
  "fonts-dejavu-core   has_font"
  "python3             has_command python3"
  "python3-venv        has_venv"
)
if $for_tests; then
  packages+=(
    "slurmctld           has_daemon slurmctld"
    "slurmd              has_daemon slurmd"
    "slurm-client        has_command sbatch"
    "munge               has_daemon munged"
  )
fi

list_missing() {
  local entry
  for entry in "${packages[@]}"; do
    read -r package probe <<<"$entry"
    $probe || printf '%s ' "$package"
  done
}

install_packages() {
  local missing
  missing="$(list_missing)"
  [ -n "$missing" ] || { say "compiler and libraries: all there"; return; }
  has_command apt-get || die 2 "missing, by their Debian names: $missing" \
    "there is no apt-get here: load your site's modules for them (CMAKE_PREFIX_PATH is searched), then run jobs/setup.sh again"
  if [ "$(id -u)" -ne 0 ]; then
    echo "error: Debian packages are missing; install them as root with the next line, then run jobs/setup.sh again" >&2
    echo "apt-get update && apt-get install -y --no-install-recommends ${missing% }" >&2
    exit 2
  fi
  say "installing Debian packages: $missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o DPkg::Lock::Timeout=300 update -q
  # shellcheck disable=SC2086  # one word a package
  apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends $missing
  missing="$(list_missing)"
  [ -z "$missing" ] || die 1 "still not found after installing: $missing"
}

# ---- Python packages, LibTorch among them --------------------------------------------------------------------------

# The version of an importable torch that is new enough; fails where there is none. Imports nothing else, so it is quick.
torch_of() {
  "$1" - "$torch_minimum" 2>/dev/null <<'PYTHON'
import importlib.metadata, importlib.util, sys
version = importlib.metadata.version("torch")
number = lambda text: [int(part) for part in text.split("+")[0].split(".")[:2]]
assert importlib.util.find_spec("torch") and number(version) >= number(sys.argv[1])
print(version)
PYTHON
}

make_venv() {
  if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import pip' 2>/dev/null; then return; fi
  "$active_python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die 2 "$active_python is $("$active_python" --version 2>&1); torch $torch_version needs Python 3.10 or newer: name one by LDMTUNE_PYTHON"
  say "creating a virtual environment in $venv"
  "$active_python" -m venv --clear "$venv"
}

pip_install() {
  PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip install "$@" ||
    die 1 "pip could not install $*" \
      "without network, name a LibTorch that is there: Torch_DIR=.../share/cmake/Torch or LDMTUNE_PYTHON=/path/to/python"
}

install_torch() {
  make_venv
  if ! $cpu_only || [ "$(uname -m)" != x86_64 ]; then
    say "installing torch $torch_version into .venv (with NVIDIA's libraries where pip's default is the CUDA build; --cpu avoids them)"
    pip_install "torch==$torch_version"
    return
  fi
  say "installing the CPU build of torch $torch_version into .venv"
  # An index of your own may offer the CPU build under its full name; PyPI does not, PyTorch's index does.
  if ! PIP_USER=0 "$venv/bin/python" -m pip install --disable-pip-version-check "torch==$torch_version+cpu" 2>/dev/null; then
    pip_install "torch==$torch_version+cpu" --extra-index-url https://download.pytorch.org/whl/cpu
  fi
}

# The tests' Python packages and torch must be in one Python: the active one if it has them all, else .venv.
serves_tests() {
  ! $for_tests ||
    "$1" "$LDMTUNE_ROOT/jobs/check_requirements.py" "$LDMTUNE_ROOT/tests/requirements.txt" >/dev/null 2>&1
}

find_or_install_torch() {
  local version
  if [ -n "${Torch_DIR:-}" ] && ! $for_tests; then
    [ -e "$Torch_DIR/../../../include/ATen/ATen.h" ] ||
      die 2 "Torch_DIR=$Torch_DIR: expected LibTorch's share/cmake/Torch, found no ../../../include/ATen/ATen.h from there"
    say "LibTorch: from Torch_DIR=$Torch_DIR"
  elif version="$(torch_of "$venv/bin/python")"; then
    say "LibTorch: torch $version in .venv"
  elif version="$(torch_of "$active_python")" && serves_tests "$active_python"; then
    say "LibTorch: torch $version of $(command -v "$active_python")"
  else
    install_torch
  fi
}

install_requirements() {
  local file missing
  for file in "${requirement_files[@]}"; do
    if missing="$("$(ldmtune_python)" "$LDMTUNE_ROOT/jobs/check_requirements.py" "$file" 2>/dev/null)"; then
      say "Python packages of ${file#"$LDMTUNE_ROOT"/}: all there"
      continue
    fi
    make_venv
    say "installing into .venv: ${missing//$'\n'/ }"
    pip_install -r "$file"
  done
}

# CMakePresets.json needs CMake 3.25; Ubuntu 22.04 has 3.22.
install_cmake() {
  local cmake=cmake version
  [ -x "$venv/bin/cmake" ] && cmake="$venv/bin/cmake"
  version="$("$cmake" --version | sed -n '1s/[^0-9]*//p')"
  [ "$(printf '%s\n' 3.25 "$version" | sort -V | head -n 1)" = 3.25 ] && return
  make_venv
  say "CMake $version is too old: installing a newer one into .venv"
  pip_install "cmake>=3.25,<5"
}

install_packages
install_cmake
find_or_install_torch
[ ${#requirement_files[@]} -eq 0 ] || install_requirements
say "set-up done; jobs/build.sh builds"
