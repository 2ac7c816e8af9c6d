#!/usr/bin/env bash
# Makes a root file system of this machine's programs, with the libraries they ask for: an image for
# tests, for measuring, for a first try. Nothing is fetched.
#
#   scripts/host_root.sh FILE.tar
#     espalier env exec --image FILE.tar -- ls -l /
set -euo pipefail

PROGRAMS="awk bash base64 cat chgrp chmod chown cmp cp cut date dd df diff dirname basename du echo env
  expr false find getconf grep gzip head id install kill ln ls mkdir mkfifo mktemp mv nproc od paste
  pgrep pkill printf ps pwd readlink realpath rm rmdir sed seq setsid sh sha256sum sleep sort split
  stat stty sync tail tar tee test timeout touch tr true truncate tty uname uniq wc which xargs yes"

[ $# = 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{app,dev,etc,home/agent,proc,root,run,sys,tmp,usr/bin,usr/lib,var/tmp}
ln -s usr/bin "$root/bin"
ln -s usr/lib "$root/lib"
chmod 0755 "$root"
chmod 1777 "$root/tmp" "$root/var/tmp"
[ "$(id -u)" != 0 ] || chown 1000:1000 "$root/home/agent"
for program in $PROGRAMS; do
  path=$(type -P "$program") || continue
  cp -L "$path" "$root/usr/bin/$program"
  { ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true; } | while read -r library; do
    [ -e "$root$library" ] && continue
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
  done
done
cp -rL --parents /usr/lib/locale/C.[uU]* "$root" 2>/dev/null || true
printf 'root:x:0:0:root:/root:/bin/bash\nagent:x:1000:1000::/home/agent:/bin/bash\n' >"$root/etc/passwd"
printf 'root:x:0:\nagent:x:1000:\n' >"$root/etc/group"
tar -C "$root" --numeric-owner -cf "$1" .
