#!/usr/bin/env bash
# From a fresh clone to a trained and evaluated policy: installs, builds, trains on trees of real shell sessions,
# evaluates before and after, writes a report.
#
#   scripts/quickstart.sh [key=value …]     overrides of configs/quickstart.yaml, as in seed=2
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  -h|--help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
step() { printf '\n== %s\n' "$*"; }

step "Setting up"
scripts/setup.sh
step "Building (preset release)"
scripts/build.sh release espalier
espalier=build/release/src/espalier
step "What this machine can do"
"$espalier" doctor
step "Training on trees of real shell sessions (configs/quickstart.yaml $*)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# -i: Ctrl-C ends the training in its orderly way; tee stays to print what it says.
"$espalier" train configs/quickstart.yaml "$@" | tee -i "$log"
run=$(sed -n 's/^Run directory: //p' "$log" | head -n 1)
step "Done"
echo "Next: $espalier trace log $run --tree 0      # one tree of shell sessions, drawn"
