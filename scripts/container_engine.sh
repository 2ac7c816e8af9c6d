#!/usr/bin/env bash
# Starts podman's API service on a unix socket, with storage of its own and an image made of this
# machine's programs (nothing is fetched): for tests, for measuring, for trying env.backend=container.
#
#   scripts/container_engine.sh DIR      DIR/engine.sock, until Ctrl-C; as root
#     espalier bench fork --only engine  with DOCKER_HOST=unix://DIR/engine.sock
#
# The image is localhost/espalier-host; its user is "agent". DIR/root.tar is what it was made of.
set -euo pipefail

IMAGE=localhost/espalier-host:latest
PROGRAMS="awk bash base64 cat chgrp chmod chown cmp cp cut date dd df diff dirname basename du echo env
  expr false find getconf grep gzip head id install kill ln ls mkdir mkfifo mktemp mv nproc od paste
  pgrep pkill printf ps pwd readlink realpath rm rmdir sed seq setsid sh sha256sum sleep sort split
  stat stty sync tail tar tee test timeout touch tr true truncate tty uname uniq wc which xargs yes"

say() { printf 'container_engine: %s\n' "$*" >&2; }

# A root of these programs with the libraries and the loader they ask for, as a tarball.
make_root() {
  local root program path library
  root=$(mktemp -d -p "$DIR")
  mkdir -p "$root"/{app,dev,etc,home/agent,proc,root,run,sys,tmp,usr/bin,usr/lib,var/tmp}
  ln -s usr/bin "$root/bin"
  ln -s usr/lib "$root/lib"
  chmod 0755 "$root"
  chmod 1777 "$root/tmp" "$root/var/tmp"
  chown 1000:1000 "$root/home/agent"
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
  rm -rf "$root"
}

write_configuration() {
  local runtime=crun
  # crun refuses hosts with both versions of control groups.
  command -v runc >/dev/null && runtime=runc
  cat >"$DIR/storage.conf" <<EOF
[storage]
driver = "overlay"
graphroot = "$DIR/graph"
runroot = "$DIR/run"
EOF
  cat >"$DIR/containers.conf" <<EOF
[engine]
runtime = "$runtime"
cgroup_manager = "cgroupfs"
events_logger = "none"
tmp_dir = "$DIR/tmp"
[containers]
log_driver = "none"
EOF
}

[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { say "storage of its own needs root"; exit 3; }
command -v podman >/dev/null || { say "podman is not installed (apt-get install podman runc)"; exit 3; }
mkdir -p "$1"
DIR=$(cd "$1" && pwd)
if [ "${2:-}" != --inside ]; then
  # Mounts in a namespace of their own go with the last process, however it ends.
  exec unshare --mount --propagation private bash "$0" "$DIR" --inside
fi
export CONTAINERS_STORAGE_CONF=$DIR/storage.conf CONTAINERS_CONF=$DIR/containers.conf
write_configuration
[ -e "$DIR/root.tar" ] || make_root "$DIR/root.tar"
podman image exists "$IMAGE" || podman import --quiet --change 'USER agent' "$DIR/root.tar" "$IMAGE" >&2
say "listening on $DIR/engine.sock"
exec podman system service --time=0 "unix://$DIR/engine.sock"
