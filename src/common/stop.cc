#include "common/stop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <string_view>
#include <system_error>

#include "common/error.h"

namespace espalier::common {
namespace {

// A signal handler can reach nothing but globals.
std::atomic<bool> g_requested = false;
std::atomic<int> g_event_fd = -1;
std::atomic<bool> g_terminal = false;  // isatty() may not be called in a handler
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

/// To whoever pressed Ctrl-C; work may go on for a while.
void say(std::string_view text) {
  if (!g_terminal.load()) return;
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

void on_signal(int) {
  const int saved_errno = errno;
  if (g_requested.load()) {
    say("\n");  // the shell's prompt shall not stand behind a half-drawn progress bar
    ::_exit(kExitInterrupted);
  }
  say(" stopping; once more quits at once\n");
  request_stop();
  errno = saved_errno;
}

[[noreturn]] void fail(const char* operation) {
  throw Error(std::string(operation) + ": " + std::generic_category().message(errno));
}

}  // namespace

void install_stop_handlers() {
  if (g_event_fd.load() < 0) {
    const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) fail("eventfd");
    g_event_fd.store(fd);
  }
  g_terminal.store(::isatty(STDERR_FILENO) == 1);
  struct sigaction action = {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (int signal : {SIGINT, SIGTERM}) {
    if (::sigaction(signal, &action, nullptr) != 0) fail("sigaction");
  }
}

bool stop_requested() { return g_requested.load(std::memory_order_relaxed); }

void request_stop() {
  g_requested.store(true);
  const int fd = g_event_fd.load();
  if (fd < 0) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof one);
}

int stop_event_fd() { return g_event_fd.load(); }

}  // namespace espalier::common
