#include "app/env_terminal.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "common/error.h"
#include "common/result.h"
#include "envs/agents.h"

namespace espalier::app {
namespace {

constexpr char kLeave = '\x1d';  // Ctrl-]
constexpr std::chrono::milliseconds kLook{15};
constexpr std::chrono::milliseconds kQuiet{2};

/// Raw mode, for its lifetime.
class RawTerminal {
 public:
  RawTerminal() {
    if (tcgetattr(STDIN_FILENO, &before_))
      throw common::ConfigError("env shell --terminal: standard input is no terminal");
    termios raw = before_;
    cfmakeraw(&raw);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
  }
  ~RawTerminal() { tcsetattr(STDIN_FILENO, TCSADRAIN, &before_); }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

 private:
  termios before_{};
};

/// What was typed since; nothing when nothing was.
std::string typed_keys() {
  pollfd wait{STDIN_FILENO, POLLIN, 0};
  char keys[4096];
  if (poll(&wait, 1, 0) <= 0) return "";
  ssize_t n = read(STDIN_FILENO, keys, sizeof keys);
  return n > 0 ? std::string(keys, static_cast<size_t>(n)) : std::string(1, kLeave);
}

}  // namespace

envs::TerminalSize terminal_size_of_stdin() {
  winsize size{};
  if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) || size.ws_col == 0 || size.ws_row == 0) return {};
  return {size.ws_col, size.ws_row};
}

int run_env_terminal(envs::Environment& environment, const envs::Task& task) {
  fmt::print("{}\n[{}: `exit` or Ctrl-] ends it and asks the verifier]\n", task.instruction,
             task.name);
  std::fflush(stdout);
  {
    RawTerminal raw;
    envs::TerminalSize size = terminal_size_of_stdin();
    for (bool over = false; !over;) {
      envs::Typing typing;
      typing.keys = typed_keys();
      size_t leave = typing.keys.find(kLeave);
      if (leave != std::string::npos) typing.keys.resize(leave);
      typing.at_most = kLook;
      typing.quiet = kQuiet;
      if (envs::TerminalSize now = terminal_size_of_stdin();
          now.columns != size.columns || now.rows != size.rows)
        typing.size = size = now;
      auto seen = common::await<envs::TerminalView>(
          [&](auto done) { environment.type(typing, std::move(done)); });
      std::fwrite(seen.output.data(), 1, seen.output.size(), stdout);
      std::fflush(stdout);
      over = seen.session_ended || leave != std::string::npos;
    }
  }
  envs::Verdict verdict = envs::run_agent(environment, task, envs::AgentKind::nop).verdict;
  if (!verdict.reward) {
    fmt::print("\nverifier failed: {}\n{}", verdict.failure, verdict.output);
    return common::kExitFailure;
  }
  fmt::print("\nreward {:g}\n", *verdict.reward);
  return common::kExitOk;
}

}  // namespace espalier::app
