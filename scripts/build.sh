#!/usr/bin/env bash
# Configures and builds one preset (default: release), or one target of it. Called by quickstart.sh and test.sh.
#   scripts/build.sh [PRESET [TARGET]]
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
[ -e "build/$preset/build.ninja" ] || cmake --preset "$preset"
cmake --build --preset "$preset" ${2:+--target "$2"}
