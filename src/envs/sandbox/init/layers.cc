#include "envs/sandbox/init/layers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "envs/sandbox/init/pack.h"

namespace espalier::envs::init {
namespace {

constexpr int kPipeBytes = 1 << 20;
constexpr int kMergeNice = 10;  // nobody waits for it

PackTarget layer_target(const Base& base, int dir_fd) {
  PackTarget target;
  target.dir_fd = dir_fd;
  target.uid_base = base.uid_base;
  target.keep_owner = base.root_mode;
  target.opaque_xattr = base.opaque_xattr();
  target.base_fds = &base.skeleton_fd;
  target.base_count = 1;
  return target;
}

/// Copying files may take long: a child of the spawner does it, replies and ends.
template <class Work>
void in_child(int socket, const wire::SpawnerHeader& header, Work work) {
  Failure failure;
  pid_t child = sys_clone(0, nullptr);
  if (child > 0) return;
  if (child < 0) {
    failure.set("fork");
    return reply(socket, header, &failure);
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  signal(SIGPIPE, SIG_IGN);
  bool done = work(&failure);
  reply(socket, header, done ? nullptr : &failure);
  _exit(0);
}

bool fill_layer(const Base& base, uint64_t id, PackTarget target, int pack_fd, Failure* failure) {
  target.dir_fd = open_layer(id);
  bool done = (target.dir_fd >= 0 || failure->set("open layer %lx", id)) &&
              unpack(pack_fd, target, failure);
  if (target.dir_fd >= 0) close(target.dir_fd);
  done = done && seal(base, id, failure);
  if (!done) drop_layer(base, id);
  return done;
}

/// The base is the image's layers where there are some.
bool use_image(PackTarget* target, const uint64_t* ids, uint32_t count, Failure* failure) {
  static int fds[wire::kMaxLayers];
  errno = E2BIG;
  if (count > wire::kMaxLayers) return failure->set("open %u layers", count);
  for (uint32_t i = 0; i < count; ++i) {
    fds[i] = open_layer(ids[i]);
    if (fds[i] < 0) return failure->set("open layer %lx", ids[i]);
  }
  if (count > 0) target->base_fds = fds;
  if (count > 0) target->base_count = count;
  return true;
}

bool export_layer(PackTarget target, uint64_t id, int out, Failure* failure) {
  target.dir_fd = open_layer(id);
  bool done =
      (target.dir_fd >= 0 || failure->set("open layer %lx", id)) && pack(out, target, failure);
  if (target.dir_fd >= 0) close(target.dir_fd);
  return done;
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
  if (detach_layer(id)) return;
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

bool unseal(const Base& base, uint64_t id, Failure* failure) {
  if (base.disk_upper) return true;
  char path[64];
  snprintf(path, sizeof path, "/l/%lx", id);
  unsigned long flags = MS_REMOUNT | MS_NOSUID | MS_NODEV;
  return mount(nullptr, path, nullptr, flags, nullptr) == 0 || failure->set("unseal %s", path);
}

bool is_empty(int layer_dir) {
  alignas(8) char entries[512];
  // "." and ".." take 24 bytes each.
  return getdents64(layer_dir, entries, sizeof entries) <= 48;
}

void handle_add_layer(int socket, const Base& base, const wire::LayerRequest& request,
                      int pack_fd) {
  Failure failure;
  uint64_t id = request.header.id;
  if (!make_upper(base, id, request.bytes, request.inodes, &failure))
    return reply(socket, request.header, &failure);
  in_child(socket, request.header, [&](Failure* failure) {
    PackTarget target = layer_target(base, -1);
    target.exact = request.flags & wire::kLayerExact;
    target.ended = request.flags & wire::kLayerEnded;
    const auto* ids = reinterpret_cast<const uint64_t*>(&request + 1);
    if (!use_image(&target, ids + request.layer_count, request.base_count, failure)) return false;
    return fill_layer(base, id, target, pack_fd, failure);
  });
}

void handle_merge_layers(int socket, const Base& base, const wire::LayerRequest& request) {
  Failure failure;
  uint64_t id = request.header.id;
  const auto* layers = reinterpret_cast<const uint64_t*>(&request + 1);
  if (!make_upper(base, id, request.bytes, request.inodes, &failure))
    return reply(socket, request.header, &failure);
  in_child(socket, request.header, [&](Failure* failure) {
    setpriority(PRIO_PROCESS, 0, kMergeNice);
    PackTarget target = layer_target(base, -1);
    if (!use_image(&target, layers + request.layer_count, request.base_count, failure))
      return false;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) return failure->set("pipe");
    fcntl(ends[1], F_SETPIPE_SZ, kPipeBytes);
    pid_t child = sys_clone(0, nullptr);
    if (child < 0) return failure->set("fork");
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
      bool done = true;
      for (uint32_t i = request.layer_count; i-- > 0 && done;)
        done = export_layer(target, layers[i], ends[1], failure);
      _exit(!done);
    }
    close(ends[1]);
    bool done = fill_layer(base, id, target, ends[0], failure);
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    errno = EIO;
    return done && (status == 0 || failure->set("read the layers to merge"));
  });
}

void handle_is_empty(int socket, const wire::SpawnerHeader& header) {
  Failure failure;
  int dir = open_layer(header.id);
  bool empty = false;
  if (dir < 0) {
    failure.set("open layer %lx", header.id);
  } else {
    empty = is_empty(dir);
    close(dir);
  }
  reply(socket, header, dir < 0 ? &failure : nullptr, empty);
}

void handle_export(int socket, const Base& base, const wire::LayerRequest& request, int out) {
  fcntl(out, F_SETPIPE_SZ, kPipeBytes);
  in_child(socket, request.header, [&](Failure* failure) {
    PackTarget target = layer_target(base, -1);
    const auto* ids = reinterpret_cast<const uint64_t*>(&request + 1);
    bool done = use_image(&target, ids, request.base_count, failure) &&
                export_layer(target, request.header.id, out, failure);
    close(out);
    return done;
  });
}

}  // namespace espalier::envs::init
