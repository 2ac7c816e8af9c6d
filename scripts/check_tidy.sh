#!/usr/bin/env bash
# clang-tidy (.clang-tidy) on the sources that changed since a base commit.
#   scripts/check_tidy.sh [BASE]      default: the merge base with origin/main, or the commit before HEAD
set -euo pipefail
cd "$(dirname "$0")/.."
base=${1:-$(git merge-base HEAD origin/main 2>/dev/null || true)}
if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then
  base=$(git rev-parse -q --verify HEAD~1 || true)
fi
[ -n "$base" ] || { echo "tidy: no earlier commit to compare with"; exit 0; }
# Units that see torch take half a minute each in clang-tidy: they are left to `check_tidy.sh` run by hand with TIDY_TORCH=1.
mapfile -t files < <(git diff --name-only --diff-filter=d "$base" -- 'src/*.cc' |
  { if [ -n "${TIDY_TORCH:-}" ]; then cat; else grep -Ev '^src/(policy|learner)/' || true; fi; })
if [ ${#files[@]} -eq 0 ]; then
  echo "tidy: nothing changed since ${base:0:12}"
  exit 0
fi
echo "tidy: ${#files[@]} files changed since ${base:0:12}"
printf '%s\0' "${files[@]}" | xargs -0 -n 4 -P "$(nproc)" clang-tidy -p build/release --quiet --extra-arg=-Wno-unknown-warning-option
