#!/bin/sh
# extract_example.sh PAGE NAME OUT: the code block of PAGE behind the line <!-- file: NAME -->.
set -e
mkdir -p "$(dirname "$3")"
sed -n "/^<!-- file: $2 -->\$/,/^\`\`\`\$/{/^<!--/d;/^\`\`\`/d;p;}" "$1" > "$3.new"
[ -s "$3.new" ] || { echo "$1 holds no example $2" >&2; exit 1; }
cmp -s "$3.new" "$3" || mv "$3.new" "$3"
rm -f "$3.new"
