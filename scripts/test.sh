#!/usr/bin/env bash
# Installs what is missing, builds, checks format and layers, and runs every test.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; }

step "Setting up"
scripts/setup.sh --tests
step "Format and layers"
scripts/check_format.sh
python3 scripts/check_layers.py
step "Building (preset release)"
scripts/build.sh release
step "Static analysis of what changed"
scripts/check_tidy.sh
step "Tests"
cd build/release
status=0
ctest --output-on-failure -j "$(nproc)" --no-tests=error | tee ctest.log || status=$?
echo
echo "Skipped tests and why:"
scripts_dir=../../scripts
"$scripts_dir/list_skipped.sh" ctest.log
echo "Next: ./scripts/quickstart.sh trains and evaluates a small policy in a few minutes."
echo
# The summary stands last, for readers of logs.
tail -n 40 ctest.log | sed -n '/tests passed/,$p'
exit "$status"
