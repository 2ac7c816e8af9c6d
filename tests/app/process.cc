#include "app/process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <stdexcept>
#include <thread>

#include "common/files.h"

namespace espalier::test {

using namespace std::chrono_literals;

Process::Process(const std::vector<std::string>& argv, const std::filesystem::path& output_file,
                 const std::filesystem::path& directory)
    : output_file_(output_file) {
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, output_file.c_str(), O_CREAT | O_WRONLY | O_TRUNC,
                                   0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  const int error = posix_spawnp(&pid_, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw std::runtime_error("cannot start " + argv[0]);
}

Process::~Process() {
  if (reaped_) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, &status_, 0);
}

void Process::signal(int number) const { kill(pid_, number); }

bool Process::running() {
  if (!reaped_ && waitpid(pid_, &status_, WNOHANG) == pid_) reaped_ = true;
  return !reaped_;
}

Finished Process::wait(double timeout_s) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
  while (running() && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(10ms);
  if (!reaped_) {
    kill(pid_, SIGKILL);
    waitpid(pid_, &status_, 0);
    reaped_ = true;
  }
  const int code = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  return {code, common::read_file(output_file_)};
}

std::vector<std::string> espalier(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), ESPALIER_BINARY);
  return arguments;
}

Finished run(const std::vector<std::string>& argv, double timeout_s) {
  const common::TempDir scratch("espalier-test");
  return Process(argv, scratch.path() / "output", ESPALIER_SOURCE_DIR).wait(timeout_s);
}

}  // namespace espalier::test
