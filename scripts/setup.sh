#!/usr/bin/env bash
# Installs what Espalier needs to build and run: distribution packages, and LibTorch into .deps/.
# Idempotent: what is there is not fetched again. Never touches the user's Python.
#
#   scripts/setup.sh [--gpu] [--tests]
#     --gpu     LibTorch with its CUDA libraries (4.7 GB) in place of the CPU one (1.3 GB)
#     --tests   also what the tests use when present (h5py)
#   Torch_ROOT=DIR   an existing LibTorch (or a Python's torch folder) is used and nothing is fetched
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH_VERSION=2.11.0
GPU=0 TESTS=0
for arg in "$@"; do
  case $arg in
    --gpu) GPU=1 ;;
    --tests) TESTS=1 ;;
    -h|--help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "setup: unknown option '$arg' (known: --gpu, --tests)" >&2; exit 2 ;;
  esac
done

PACKAGES=(g++ cmake ninja-build ccache pkg-config git ca-certificates
  libtbb-dev libhdf5-dev libyaml-cpp-dev libeigen3-dev libcli11-dev nlohmann-json3-dev
  libspdlog-dev libfmt-dev libseccomp-dev libarchive-dev libzstd-dev libvterm-dev libtoml11-dev libssl-dev libcurl4-openssl-dev zlib1g-dev
  protobuf-compiler libprotobuf-dev libgtest-dev libgmock-dev
  python3 python3-pip python3-venv clang-format clang-tidy)
[ "$TESTS" = 1 ] && PACKAGES+=(python3-h5py slirp4netns iproute2)

say() { printf 'setup: %s\n' "$*"; }

install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "this is not a Debian or Ubuntu system: install the equivalents of"
    printf '  %s\n' "${PACKAGES[*]}"
    return
  fi
  local missing=() package
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    say "packages: all ${#PACKAGES[@]} are installed"
    return
  fi
  local sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "not root and no sudo; have these installed: ${missing[*]}" >&2; exit 3; }
    sudo=(sudo)
  fi
  say "packages: installing ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
}

install_torch() {
  if [ -n "${Torch_ROOT:-}" ]; then
    [ -e "$Torch_ROOT/lib/libtorch_cpu.so" ] || { say "Torch_ROOT=$Torch_ROOT has no lib/libtorch_cpu.so" >&2; exit 2; }
    say "LibTorch: using $Torch_ROOT"
    return
  fi
  local flavour=cpu
  [ "$GPU" = 1 ] && flavour=gpu
  local want="$TORCH_VERSION $flavour"
  if [ "$(cat .deps/libtorch/.espalier-version 2>/dev/null)" = "$want" ] ||
     { [ "$GPU" = 0 ] && [ "$(cat .deps/libtorch/.espalier-version 2>/dev/null)" = "$TORCH_VERSION gpu" ]; }; then
    say "LibTorch: $(cat .deps/libtorch/.espalier-version) is in .deps/libtorch"
    return
  fi
  say "LibTorch: fetching $want into .deps/libtorch"
  rm -rf .deps/libtorch.new .deps/wheels
  mkdir -p .deps/libtorch.new .deps/wheels
  # A private environment only for its pip; the wheels are unpacked, not installed.
  [ -x .deps/pip/bin/pip ] || python3 -m venv .deps/pip
  local request=(--only-binary=:all: --python-version 3.11 --implementation cp -d .deps/wheels -q)
  if [ "$GPU" = 1 ]; then
    .deps/pip/bin/pip download "${request[@]}" "torch==$TORCH_VERSION"
  else
    # libtorch_cpu needs libcupti and libcudart, and nothing else of CUDA.
    .deps/pip/bin/pip download --no-deps "${request[@]}" "torch==$TORCH_VERSION" \
      nvidia-cuda-cupti==13.0.85 nvidia-cuda-runtime==13.0.96
  fi
  local wheel
  for wheel in .deps/wheels/torch-*.whl .deps/wheels/nvidia_*.whl; do
    [ -e "$wheel" ] && python3 -m zipfile -e "$wheel" .deps/libtorch.new
  done
  echo "$want" >.deps/libtorch.new/.espalier-version
  rm -rf .deps/libtorch .deps/wheels
  mv .deps/libtorch.new .deps/libtorch
}

install_packages
install_torch
say "done"
