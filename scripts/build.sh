#!/usr/bin/env bash
# Configures and builds one preset (default: release). Called by quickstart.sh and test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
[ -e "build/$preset/build.ninja" ] || cmake --preset "$preset"
cmake --build --preset "$preset"
