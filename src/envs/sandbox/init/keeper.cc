// A keeper: the process that holds frozen sessions and copies them.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <new>

#include "envs/sandbox/init/layers.h"
#include "envs/sandbox/init/live_fork.h"

namespace espalier::envs::init {
namespace {

alignas(16) char g_message[4096];
Frozen** g_frozen = nullptr;
size_t g_count = 0, g_room = 0;

Frozen* find(uint64_t id) {
  for (size_t i = 0; i < g_count; ++i)
    if (g_frozen[i]->id == id) return g_frozen[i];
  return nullptr;
}

bool keep(Frozen* frozen) {
  if (g_count == g_room) {
    size_t room = g_room ? 2 * g_room : 64;
    auto** grown = static_cast<Frozen**>(realloc(g_frozen, room * sizeof *g_frozen));
    if (!grown) return false;
    g_frozen = grown;
    g_room = room;
  }
  g_frozen[g_count++] = frozen;
  return true;
}

void forget(size_t index) {
  if (g_frozen[index]->socket >= 0) close(g_frozen[index]->socket);
  free(g_frozen[index]->typed);
  forget_programs(&g_frozen[index]->programs);
  free(g_frozen[index]);
  g_frozen[index] = g_frozen[--g_count];
}

void forget(const Frozen* frozen) {
  for (size_t i = 0; i < g_count; ++i)
    if (g_frozen[i] == frozen) return forget(i);
}

/// Frozen sessions that were killed with their sandboxes, and carriers.
void reap() {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
    if (!WIFEXITED(status) && !WIFSIGNALED(status)) continue;
    for (size_t i = 0; i < g_count; ++i) {
      program_ended(&g_frozen[i]->programs, pid);
      if (g_frozen[i]->session.outer_pid == pid) {
        forget(i);
        break;
      }
    }
  }
}

void handle_freeze(int channel, const Base& base, const wire::FreezeRequest& request, int pidfd) {
  auto* frozen = static_cast<Frozen*>(calloc(1, sizeof(Frozen)));
  Refusal why;
  uint32_t outcome = wire::kNotCarried;
  if (frozen) {
    new (frozen) Frozen;
    frozen->id = request.header.id;
    outcome = freeze(base, request, pidfd, frozen, &why);
  }
  if (!(outcome & wire::kFrozen) || !keep(frozen)) free(frozen);
  wire::SpawnerReply out{};
  out.header = request.header;
  out.value = outcome;
  memcpy(out.text, why.text, sizeof why.text);
  if (!send_packet(channel, &out, sizeof out, nullptr, 0)) _exit(1);
}

void handle_copy(int channel, const Base& base, const wire::CopyRequest& request, const int* fds,
                 size_t fd_count) {
  Failure failure;
  Frozen* frozen = find(request.header.id);
  Copied copied;
  bring_to(request.cpu, 0);
  errno = ESRCH;
  size_t pipes = fd_count - 1 - request.group_count;  // wraps around where there is no descriptor
  if (!frozen || (pipes != 3 && pipes != 0)) {
    failure.set("copy a session");
  } else {
    CopyPlan plan;
    plan.link = fds[0];
    plan.depth = request.depth;
    if (pipes) {
      plan.output = fds[1];
      plan.command = fds[2];
      plan.status = fds[3];
    }
    plan.groups = fds + 1 + pipes;
    plan.group_count = request.group_count;
    copy(base, frozen, plan, &copied, &failure);
  }
  wire::SpawnerReply out{};
  out.header = request.header;
  out.value = uint32_t(copied.pid);
  out.extra = uint64_t(copied.reaper_pid);
  if (copied.pid < 0) {
    out.error = failure.error ? failure.error : EIO;
    memcpy(out.text, failure.text, sizeof out.text);
  }
  if (!send_packet(channel, &out, sizeof out, nullptr, 0)) _exit(1);
  if (copied.carrier > 0) kill(copied.carrier, SIGKILL);  // reap() sees the rest of it
}

void handle(int channel, const Base& base, const int* fds, size_t fd_count) {
  wire::SpawnerHeader header;
  memcpy(&header, g_message, sizeof header);
  Failure failure;
  Frozen* frozen = find(header.id);
  switch (header.op) {
    case wire::SpawnerOp::freeze:
      return handle_freeze(channel, base, *reinterpret_cast<wire::FreezeRequest*>(g_message),
                           fd_count ? fds[0] : -1);
    case wire::SpawnerOp::copy:
      return handle_copy(channel, base, *reinterpret_cast<wire::CopyRequest*>(g_message), fds,
                         fd_count);
    case wire::SpawnerOp::thaw: {
      errno = ESRCH;
      bool done = frozen ? thaw(base, frozen, &failure) : failure.set("thaw a session");
      if (done) forget(frozen);
      return reply(channel, header, done ? nullptr : &failure);
    }
    case wire::SpawnerOp::release:
      if (!frozen) return;
      forget_programs(&frozen->programs);
      kill(frozen->session.outer_pid, SIGKILL);
      return;
    default:
      _exit(1);
  }
}

}  // namespace

void keeper_main(const Base& base, int channel) {
  prctl(PR_SET_NAME, "espalier-keeper", 0, 0, 0);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  for (;;) {
    pollfd wait[2] = {{channel, POLLIN, 0}, {signals, POLLIN, 0}};
    if (poll(wait, 2, -1) < 0 && errno != EINTR) _exit(1);
    if (wait[1].revents) {
      signalfd_siginfo info;
      while (read(signals, &info, sizeof info) > 0) {
      }
      reap();
    }
    if (!wait[0].revents) continue;
    int fds[wire::kMaxFds];
    size_t fd_count = 0;
    ssize_t n = receive_packet(channel, g_message, sizeof g_message, fds, &fd_count);
    if (n <= 0) _exit(0);
    if (size_t(n) >= sizeof(wire::SpawnerHeader)) handle(channel, base, fds, fd_count);
    for (size_t i = 0; i < fd_count; ++i) close(fds[i]);
  }
}

}  // namespace espalier::envs::init
