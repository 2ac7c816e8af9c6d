#!/usr/bin/env bash
# Fails when a source file is not as clang-format (.clang-format) would write it.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files '*.cc' '*.h' | xargs clang-format --dry-run --Werror
echo "format: $(git ls-files '*.cc' '*.h' | wc -l) files are clean"
