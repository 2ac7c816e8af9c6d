#include "app/env_shell.h"

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <optional>
#include <string>

#include "common/error.h"
#include "envs/agents.h"

namespace espalier::app {
namespace {

// A signal handler can reach nothing else.
std::atomic<bool> interrupted{false};

void take_over_ctrl_c() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = true; };
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);  // without SA_RESTART: a pending read returns
}

/// The next line, without its end; nullopt at the end of input. Ctrl-C gives an empty line.
std::optional<std::string> read_line(const std::string& prompt) {
  fmt::print("{}", prompt);
  std::fflush(stdout);
  char* text = nullptr;
  size_t capacity = 0;
  errno = 0;
  ssize_t size = ::getline(&text, &capacity, stdin);
  std::optional<std::string> line;
  if (size >= 0) {
    line = std::string(text, static_cast<size_t>(size));
    if (line->ends_with('\n')) line->pop_back();
  } else if (errno == EINTR) {
    std::clearerr(stdin);
    interrupted = false;
    fmt::print("\n");
    line = "";
  }
  std::free(text);
  return line;
}

/// Ctrl-C ends the command; `stopped` tells.
envs::Observation run_line(envs::Environment& environment, const std::string& line,
                           double timeout_s, bool& stopped) {
  constexpr std::chrono::milliseconds kLook{20};
  std::promise<common::Result<envs::Observation>> promise;
  auto result = promise.get_future();
  environment.run(line, envs::deadline_after(timeout_s),
                  [&](common::Result<envs::Observation> r) { promise.set_value(std::move(r)); });
  while (result.wait_for(kLook) != std::future_status::ready) {
    if (!interrupted.exchange(false)) continue;
    stopped = true;
    environment.interrupt();
  }
  interrupted = false;
  return result.get().get();
}

void print_output(const envs::Observation& observation, double timeout_s, bool stopped) {
  if (stopped) fmt::print("\n");
  fmt::print("{}", observation.output);
  if (!observation.output.empty() && !observation.output.ends_with('\n')) fmt::print("\n");
  if (observation.timed_out && !stopped)
    fmt::print("[killed: a command may take {:g} s]\n", timeout_s);
}

}  // namespace

envs::Observation run_command_lines(envs::Environment& environment, double timeout_s) {
  take_over_ctrl_c();
  const bool terminal = isatty(STDIN_FILENO);
  envs::Observation last;
  while (!last.shell_exited) {
    std::string code = last.exit_code == 0 ? "" : fmt::format("[{}] ", last.exit_code);
    std::optional<std::string> line = read_line(code + "$ ");
    if (!line) break;
    if (!terminal) fmt::print("{}\n", *line);
    if (line->empty()) continue;
    bool stopped = false;
    last = run_line(environment, *line, timeout_s, stopped);
    print_output(last, timeout_s, stopped);
  }
  return last;
}

int run_env_shell(envs::Environment& environment, const envs::Task& task) {
  fmt::print("{}\n", task.instruction);
  if (isatty(STDIN_FILENO)) {
    fmt::print("[{}: {} commands are an episode; `exit` ends it and asks the verifier]\n",
               task.name, task.max_turns);
  }
  const envs::Observation last = run_command_lines(environment, task.command_timeout_s);
  envs::Verdict verdict = envs::run_agent(environment, task, envs::AgentKind::nop).verdict;
  if (!verdict.reward) {
    fmt::print("\nverifier failed: {}\n{}", verdict.failure, verdict.output);
    return common::kExitFailure;
  }
  fmt::print("{}reward {:g}\n", last.shell_exited ? "" : "\n", *verdict.reward);
  return common::kExitOk;
}

}  // namespace espalier::app
