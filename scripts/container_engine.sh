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

say() { printf 'container_engine: %s\n' "$*" >&2; }

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
HERE=$(cd "$(dirname "$0")" && pwd)
if [ "${2:-}" != --inside ]; then
  # Mounts in a namespace of their own go with the last process, however it ends.
  exec unshare --mount --propagation private bash "$HERE/container_engine.sh" "$DIR" --inside
fi
export CONTAINERS_STORAGE_CONF=$DIR/storage.conf CONTAINERS_CONF=$DIR/containers.conf
write_configuration
[ -e "$DIR/root.tar" ] || "$HERE/host_root.sh" "$DIR/root.tar"
podman image exists "$IMAGE" || podman import --quiet --change 'USER agent' "$DIR/root.tar" "$IMAGE" >&2
say "listening on $DIR/engine.sock"
cd "$DIR"  # where monitors of containers leave their marks
exec podman system service --time=0 "unix://$DIR/engine.sock"
