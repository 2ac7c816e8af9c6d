#include "envs/sandbox/init/layers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envs/sandbox/init/pack.h"

namespace espalier::envs::init {
namespace {

PackTarget layer_target(const Base& base, int dir_fd) {
  PackTarget target;
  target.dir_fd = dir_fd;
  target.uid_base = base.uid_base;
  target.keep_owner = base.root_mode;
  target.opaque_xattr = base.opaque_xattr();
  target.skeleton_fd = base.skeleton_fd;
  return target;
}

}  // namespace

void reply(int socket, const wire::SpawnerHeader& header, const Failure* failure, uint32_t value,
           const int* fds, size_t fd_count) {
  wire::SpawnerReply out{};
  out.header = header;
  out.value = value;
  if (failure) {
    out.error = failure->error ? failure->error : EIO;
    memcpy(out.text, failure->text, sizeof out.text);
  }
  if (!send_packet(socket, &out, sizeof out, fds, fd_count)) _exit(1);
}

bool make_upper(const Base& base, uint64_t id, uint64_t bytes, uint64_t inodes, Failure* failure) {
  char path[64], options[128];
  snprintf(path, sizeof path, "/l/%lx", id);
  if (mkdir(path, 0700)) return failure->set("mkdir %s", path);
  snprintf(options, sizeof options, "mode=0755,size=%lu,nr_inodes=%lu", bytes, inodes);
  if (!base.disk_upper && mount("espalier", path, "tmpfs", MS_NOSUID | MS_NODEV, options)) {
    failure->set("mount tmpfs (%s)", options);
    rmdir(path);
    return false;
  }
  uint32_t owner = base.outer_uid(0);
  snprintf(path, sizeof path, "/l/%lx/u", id);
  if (mkdir(path, 0755) || chown(path, owner, owner)) return failure->set("mkdir %s", path);
  snprintf(path, sizeof path, "/l/%lx/w", id);
  return mkdir(path, 0700) == 0 || failure->set("mkdir %s", path);
}

void drop_layer(const Base& base, uint64_t id) {
  char path[64];
  snprintf(path, sizeof path, "/l/%lx", id);
  if (!base.disk_upper) {
    umount2(path, MNT_DETACH);
    rmdir(path);
  } else {
    remove_tree(AT_FDCWD, path);
  }
}

int open_layer(uint64_t id) {
  char path[64];
  snprintf(path, sizeof path, "/l/%lx/u", id);
  return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

bool seal(const Base& base, uint64_t id, Failure* failure) {
  if (base.disk_upper) return true;
  char path[64];
  snprintf(path, sizeof path, "/l/%lx", id);
  // Refused while any process still holds a file open for writing: the layer would change under its
  // readers.
  unsigned long flags = MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV;
  return mount(nullptr, path, nullptr, flags, nullptr) == 0 || failure->set("seal %s", path);
}

void handle_add_layer(int socket, const Base& base, const wire::LayerRequest& request,
                      int pack_fd) {
  Failure failure;
  uint64_t id = request.header.id;
  bool done = make_upper(base, id, request.bytes, request.inodes, &failure);
  int dir = done ? open_layer(id) : -1;
  PackTarget target = layer_target(base, dir);
  done = done && (dir >= 0 || failure.set("open layer")) && unpack(pack_fd, target, &failure);
  if (dir >= 0) close(dir);
  done = done && seal(base, id, &failure);
  if (!done) drop_layer(base, id);
  reply(socket, request.header, done ? nullptr : &failure);
}

void handle_is_empty(int socket, const wire::SpawnerHeader& header) {
  Failure failure;
  int dir = open_layer(header.id);
  alignas(8) char entries[512];
  bool empty = false;
  if (dir < 0) {
    failure.set("open layer %lx", header.id);
  } else {
    ssize_t n = getdents64(dir, entries, sizeof entries);
    // "." and ".." take 24 bytes each.
    empty = n <= 48;
    close(dir);
  }
  reply(socket, header, dir < 0 ? &failure : nullptr, empty);
}

/// Packing may take long: a child does it, replies and ends.
void handle_export(int socket, const Base& base, const wire::SpawnerHeader& header, int out) {
  pid_t child = sys_clone(0, nullptr);
  if (child > 0) return;
  Failure failure;
  if (child < 0) {
    failure.set("fork");
    return reply(socket, header, &failure);
  }
  signal(SIGPIPE, SIG_IGN);
  int dir = open_layer(header.id);
  bool done = (dir >= 0 || failure.set("open layer %lx", header.id)) &&
              pack(out, layer_target(base, dir), &failure);
  close(out);
  reply(socket, header, done ? nullptr : &failure);
  _exit(0);
}

}  // namespace espalier::envs::init
