#!/usr/bin/env bash
# Prints which tests of a ctest log were skipped, why, and how many.
#   scripts/list_skipped.sh ctest.log      (run from the build directory)
set -euo pipefail
log=$1
count=$(grep -c '\*\*\*Skipped' "$log" || true)
if [ "$count" = 0 ]; then
  echo "  none"
  exit 0
fi
details=Testing/Temporary/LastTest.log
grep '\*\*\*Skipped' "$log" | sed -E 's/^.*Test +#[0-9]+: ([^ ]+) .*$/\1/' | while read -r name; do
  # The line after gtest's "file:line: Skipped" holds the reason.
  reason=$(awk -v name="\"$name\"" '$0 ~ "Testing: " && index($0, substr(name, 2, length(name) - 2)) { seen = 1 }
    seen && take { print; exit } seen && /: Skipped$/ { take = 1 }' "$details")
  echo "  $name: ${reason:-no reason given}"
done
echo "  $count skipped"
