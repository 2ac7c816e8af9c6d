#include "common/stop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <system_error>

#include "common/error.h"

namespace espalier::common {
namespace {

// A signal handler can reach nothing but globals.
std::atomic<bool> g_requested = false;
std::atomic<int> g_event_fd = -1;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

void on_signal(int) {
  const int saved_errno = errno;
  if (g_requested.load()) ::_exit(kExitInterrupted);
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
