#include "common/stop.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <csignal>
#include <cstdlib>

#include "common/error.h"

namespace espalier::common {
namespace {

bool readable(int fd) {
  pollfd entry = {fd, POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1 && (entry.revents & POLLIN);
}

// Signals and flags last as long as a process does, so each case runs in one of its own.
int stops_after(int signal) {
  install_stop_handlers();
  if (stop_requested() || readable(stop_event_fd())) return 1;
  std::raise(signal);
  if (!stop_requested()) return 2;
  return readable(stop_event_fd()) && readable(stop_event_fd()) ? 0 : 3;
}

TEST(StopDeathTest, FirstSignalSetsFlagAndEvent) {
  EXPECT_EXIT(std::exit(stops_after(SIGINT)), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(std::exit(stops_after(SIGTERM)), ::testing::ExitedWithCode(0), "");
}

TEST(StopDeathTest, SecondSignalEndsTheProcessWithoutRunningAnything) {
  EXPECT_EXIT(
      {
        std::atexit([] { std::fputs("ran at exit", stderr); });
        install_stop_handlers();
        std::raise(SIGINT);
        std::raise(SIGTERM);
        std::exit(1);
      },
      ::testing::ExitedWithCode(kExitInterrupted), "^$");
}

TEST(StopDeathTest, RequestWorksAsAFirstSignalWithAndWithoutHandlers) {
  EXPECT_EXIT(
      {
        if (stop_event_fd() != -1) std::exit(1);
        request_stop();
        std::exit(stop_requested() ? 0 : 2);
      },
      ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(
      {
        install_stop_handlers();
        request_stop();
        std::raise(SIGINT);
        std::exit(1);
      },
      ::testing::ExitedWithCode(kExitInterrupted), "");
}

}  // namespace
}  // namespace espalier::common
