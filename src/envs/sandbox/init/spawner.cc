#include "envs/sandbox/init/spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "envs/sandbox/init/layers.h"
#include "envs/sandbox/init/network.h"

namespace espalier::envs::init {
namespace {

alignas(16) char g_message[wire::kMaxMessageBytes];
sock_filter g_filter[1024];

void close_all(const int* fds, size_t count) {
  for (size_t i = 0; i < count; ++i) close(fds[i]);
}

constexpr const char* kOverlayOptions[][2] = {
    {"index", "off"}, {"metacopy", "off"}, {"redirect_dir", "nofollow"}, {"xino", "off"}};

/// Detached overlay by the new mount calls; working directory is /l, so layers have short names.
int overlay_by_fsconfig(const Base& base, const wire::SpawnRequest& request,
                        const uint64_t* layers) {
  int fs = sys_fsopen("overlay");
  if (fs < 0) return -1;
  char path[64];
  bool done = true;
  for (uint32_t i = 0; i < request.layer_count && done; ++i) {
    snprintf(path, sizeof path, "%lx/u", layers[i]);
    done = sys_fsconfig(fs, kFsconfigSetString, "lowerdir+", path) == 0;
  }
  done = done && sys_fsconfig(fs, kFsconfigSetString, "lowerdir+", "../skel") == 0;
  snprintf(path, sizeof path, "%lx/u", request.header.id);
  done = done && sys_fsconfig(fs, kFsconfigSetString, "upperdir", path) == 0;
  snprintf(path, sizeof path, "%lx/w", request.header.id);
  done = done && sys_fsconfig(fs, kFsconfigSetString, "workdir", path) == 0 &&
         sys_fsconfig(fs, kFsconfigSetFlag, "volatile", nullptr) == 0;
  for (auto& option : kOverlayOptions)
    done = done && sys_fsconfig(fs, kFsconfigSetString, option[0], option[1]) == 0;
  if (!base.root_mode) done = done && sys_fsconfig(fs, kFsconfigSetFlag, "userxattr", nullptr) == 0;
  int mnt = -1;
  if (done && sys_fsconfig(fs, kFsconfigCreate, nullptr, nullptr) == 0)
    mnt = sys_fsmount(fs, kMountAttrNosuid | kMountAttrNodev);
  int saved = errno;
  close(fs);
  errno = saved;
  return mnt;
}

/// The same by mount(2), for kernels before 6.7: mounted aside, cloned, detached.
int overlay_by_mount(const Base& base, const wire::SpawnRequest& request, const uint64_t* layers) {
  static char options[4096];
  size_t used = size_t(snprintf(options, sizeof options, "lowerdir="));
  for (uint32_t i = 0; i < request.layer_count && used < sizeof options; ++i)
    used += size_t(snprintf(options + used, sizeof options - used, "%lx/u:", layers[i]));
  if (used < sizeof options)
    used +=
        size_t(snprintf(options + used, sizeof options - used,
                        "../skel,upperdir=%lx/u,workdir=%lx/w,volatile,index=off,metacopy=off,"
                        "redirect_dir=nofollow,xino=off%s",
                        request.header.id, request.header.id, base.root_mode ? "" : ",userxattr"));
  if (used >= sizeof options) {
    errno = E2BIG;
    return -1;
  }
  if (mount("overlay", "/m", "overlay", MS_NOSUID | MS_NODEV, options)) return -1;
  int mnt = sys_open_tree("/m");
  int saved = errno;
  umount2("/m", MNT_DETACH);
  errno = saved;
  return mnt;
}

int make_overlay(Base* base, const wire::SpawnRequest& request, const uint64_t* layers,
                 Failure* failure) {
  int mnt = -1;
  if (base->long_lowers) {
    mnt = overlay_by_fsconfig(*base, request, layers);
    if (mnt < 0 && errno == EINVAL) base->long_lowers = false;
  }
  if (!base->long_lowers) mnt = overlay_by_mount(*base, request, layers);
  if (mnt < 0) failure->set("mount overlay with %u layers", request.layer_count + 1);
  return mnt;
}

void handle_spawn(int socket, Base* base, const wire::SpawnRequest& request, const int* fds,
                  size_t fd_count) {
  Failure failure;
  const auto* layers = reinterpret_cast<const uint64_t*>(&request + 1);
  SandboxPlan plan;
  plan.request = request;
  plan.control_fd = fds[0];
  plan.cgroup_fds = fds + 1;
  plan.cgroup_count = fd_count - 1;
  plan.user_ns = base->user_ns;
  int out[2] = {-1, -1};
  bool done =
      make_upper(*base, request.header.id, request.upper_bytes, request.upper_inodes, &failure);
  if (done && request.process_limit && base->root_mode) {
    // The kernel counts RLIMIT_NPROC per user and user namespace.
    plan.user_ns = make_user_namespace(*base, &failure);
    done = plan.user_ns >= 0;
  }
  if (done) {
    plan.overlay_fd = make_overlay(base, request, layers, &failure);
    done = plan.overlay_fd >= 0;
  }
  if (done) {
    out[1] = openat(plan.overlay_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    uint64_t flags = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET;
    pid_t child = sys_clone(flags, &out[0]);
    if (child == 0) sandbox_main(*base, plan);
    done = child > 0 || failure.set("clone the sandbox's first process");
  }
  if (done) {
    reply(socket, request.header, nullptr, 0, out, 2);
  } else {
    drop_layer(*base, request.header.id);
    reply(socket, request.header, &failure);
  }
  if (out[0] >= 0) close(out[0]);
  if (out[1] >= 0) close(out[1]);
  if (plan.overlay_fd >= 0) close(plan.overlay_fd);
  if (plan.user_ns != base->user_ns && plan.user_ns >= 0) close(plan.user_ns);
}

bool configure(int socket, Base* base, const char* message, size_t size) {
  wire::ConfigureRequest request;
  memcpy(&request, message, sizeof request);
  const char* filter = message + sizeof request;
  const char* scratch = filter + request.seccomp_bytes;
  Failure failure;
  errno = EINVAL;
  bool done =
      (request.seccomp_bytes <= sizeof g_filter && sizeof request + request.seccomp_bytes < size) ||
      failure.set("configure: damaged message");
  if (done) {
    memcpy(g_filter, filter, request.seccomp_bytes);
    base->seccomp = g_filter;
    base->seccomp_length = uint16_t(request.seccomp_bytes / sizeof(sock_filter));
    done = build_base(request, scratch, base, &failure);
  }
  remember_host_addresses();
  if (done && chdir("/l")) done = failure.set("chdir /l");
  base->skeleton_fd = open("/skel", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  uint32_t flags =
      (base->root_mode ? wire::kModeRoot : 0u) | (base->disk_upper ? wire::kModeDiskUpper : 0u);
  reply(socket, request.header, done ? nullptr : &failure, flags);
  return done;
}

void handle(int socket, Base* base, const char* message, size_t size, const int* fds,
            size_t fd_count) {
  wire::SpawnerHeader header;
  memcpy(&header, message, sizeof header);
  switch (header.op) {
    case wire::SpawnerOp::configure:
      if (!configure(socket, base, message, size)) _exit(1);
      break;
    case wire::SpawnerOp::spawn:
      handle_spawn(socket, base, *reinterpret_cast<const wire::SpawnRequest*>(message), fds,
                   fd_count);
      break;
    case wire::SpawnerOp::add_layer:
      handle_add_layer(socket, *base, *reinterpret_cast<const wire::LayerRequest*>(message),
                       fds[0]);
      break;
    case wire::SpawnerOp::merge_layers:
      handle_merge_layers(socket, *base, *reinterpret_cast<const wire::LayerRequest*>(message));
      break;
    case wire::SpawnerOp::seal: {
      Failure failure;
      bool done = seal(*base, header.id, &failure);
      reply(socket, header, done ? nullptr : &failure);
      break;
    }
    case wire::SpawnerOp::drop:
      drop_layer(*base, header.id);
      break;
    case wire::SpawnerOp::is_empty:
      handle_is_empty(socket, header);
      break;
    case wire::SpawnerOp::export_layer:
      handle_export(socket, *base, *reinterpret_cast<const wire::LayerRequest*>(message), fds[0]);
      break;
  }
}

}  // namespace

void spawner_main(int socket) {
  static Base base;
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_BLOCK, &mask, nullptr);
  int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  for (;;) {
    pollfd wait[2] = {{socket, POLLIN, 0}, {signals, POLLIN, 0}};
    if (poll(wait, 2, -1) < 0 && errno != EINTR) _exit(1);
    if (wait[1].revents) {
      signalfd_siginfo info;
      while (read(signals, &info, sizeof info) > 0) {
      }
      while (waitpid(-1, nullptr, WNOHANG) > 0) {
      }
    }
    if (!wait[0].revents) continue;
    int fds[wire::kMaxFds];
    size_t fd_count = 0;
    ssize_t n = receive_packet(socket, g_message, sizeof g_message, fds, &fd_count);
    if (n <= 0) _exit(0);
    if (size_t(n) >= sizeof(wire::SpawnerHeader))
      handle(socket, &base, g_message, size_t(n), fds, fd_count);
    close_all(fds, fd_count);
  }
}

}  // namespace espalier::envs::init
