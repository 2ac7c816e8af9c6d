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
#include <sys/prctl.h>
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

/// A copy of this process that waits in the given control groups (cradle.cc) or works on sessions
/// (keeper.cc).
void handle_helper(int socket, Base* base, const wire::SpawnerHeader& header, const int* fds,
                   size_t fd_count) {
  Failure failure;
  pid_t child = fd_count ? sys_clone(0, nullptr) : -1;
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    close(socket);
    if (header.op == wire::SpawnerOp::keeper) keeper_main(*base, fds[0]);
    cradle_main(base, fds[0], fds + 1, fd_count - 1);
  }
  if (child < 0) failure.set("fork the supervisor");
  reply(socket, header, child < 0 ? &failure : nullptr);
}

bool configure(int socket, Base* base, const char* message, size_t size) {
  wire::ConfigureRequest request;
  memcpy(&request, message, sizeof request);
  const char* filter = message + sizeof request;
  const char* scratch = filter + request.seccomp_bytes;
  const char* end = message + size;
  const char* images = scratch < end ? scratch + strnlen(scratch, size_t(end - scratch)) + 1 : end;
  Failure failure;
  errno = EINVAL;
  bool done = (request.seccomp_bytes <= sizeof g_filter && images < end) ||
              failure.set("configure: damaged message");
  if (done) {
    memcpy(g_filter, filter, request.seccomp_bytes);
    base->seccomp = g_filter;
    base->seccomp_length = uint16_t(request.seccomp_bytes / sizeof(sock_filter));
    done = build_base(request, scratch, images, base, &failure);
  }
  remember_host_addresses();
  if (done && chdir("/l")) done = failure.set("chdir /l");
  base->skeleton_fd = open("/skel", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  uint32_t flags = (base->root_mode ? wire::kModeRoot : 0u) |
                   (base->disk_upper ? wire::kModeDiskUpper : 0u) |
                   base->user_ns_count << wire::kModeDepthShift;
  reply(socket, request.header, done ? nullptr : &failure, flags, base->user_ns,
        done && base->user_ns_count > 0);
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
    case wire::SpawnerOp::cradle:
    case wire::SpawnerOp::keeper:
      handle_helper(socket, base, header, fds, fd_count);
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
    case wire::SpawnerOp::attach_layer: {
      Failure failure;
      bool done = attach_layer(header.id, fd_count ? fds[0] : -1,
                               message + sizeof(wire::AttachRequest), &failure);
      reply(socket, header, done ? nullptr : &failure);
      break;
    }
    case wire::SpawnerOp::export_layer:
      handle_export(socket, *base, *reinterpret_cast<const wire::LayerRequest*>(message), fds[0]);
      break;
    default:
      _exit(1);
  }
}

/// Cradles and keepers see their channels close as well; their groups can be removed once they are
/// gone.
[[noreturn]] void end() {
  while (waitpid(-1, nullptr, __WALL) > 0 || errno == EINTR) {
  }
  _exit(0);
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
    if (n <= 0) end();
    if (size_t(n) >= sizeof(wire::SpawnerHeader))
      handle(socket, &base, g_message, size_t(n), fds, fd_count);
    close_all(fds, fd_count);
  }
}

}  // namespace espalier::envs::init
