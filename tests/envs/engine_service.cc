#include "engine_service.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <thread>
#include <vector>

#include "common/error.h"
#include "envs/container/engine.h"

namespace espalier::envs::testing {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr int kStartAttempts = 1200;  // of 50 ms

/// Runs a program that ends with this one, its output to a file.
pid_t spawn(const std::vector<std::string>& argv, const std::string& log) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  const int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(in, 0);
  dup2(out, 1);
  dup2(out, 2);
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  execvp(words[0], words.data());
  _exit(127);
}

/// podman keeps a monitor for each exec, minutes past its end: those that name our directory.
void end_monitors(const std::string& place) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    const std::string words((std::istreambuf_iterator<char>(file)), {});
    if (words.find("conmon") != std::string::npos && words.find(place + "/") != std::string::npos)
      kill(std::stoi(name), SIGKILL);
  }
}

/// podman's parent of all control groups stays; one in use cannot be removed.
void remove_groups() {
  std::error_code ignored;
  for (const auto& controller : fs::directory_iterator("/sys/fs/cgroup", ignored))
    for (const char* group : {"libpod_parent/conmon", "libpod_parent"})
      rmdir((controller.path() / group).c_str());
}

}  // namespace

EngineService::EngineService() {
  try {
    start();
  } catch (...) {
    stop();
    throw;
  }
}

EngineService::~EngineService() { stop(); }

EngineService& EngineService::shared() {
  static std::optional<std::string> failure;
  static std::unique_ptr<EngineService> service;
  if (failure) throw common::SandboxError(*failure);
  try {
    if (!service) service = std::make_unique<EngineService>();
  } catch (const common::SandboxError& e) {
    failure = e.what();
    throw;
  }
  return *service;
}

void EngineService::start() {
  const std::string log = directory_.path() / "service.log";
  service_ = spawn({"/bin/bash", std::string(ESPALIER_SOURCE_DIR) + "/scripts/container_engine.sh",
                    directory_.path()},
                   log);
  for (int attempt = 0; attempt < kStartAttempts; ++attempt) {
    if (waitpid(service_, nullptr, WNOHANG) == service_) {
      service_ = -1;
      break;
    }
    try {
      container::Engine engine(socket());
      return;
    } catch (const common::Unsupported&) {
      std::this_thread::sleep_for(50ms);
    }
  }
  throw common::SandboxError("podman's service does not start: " + common::read_file(log));
}

void EngineService::stop() {
  if (service_ > 0) kill(service_, SIGTERM);
  for (int i = 0; i < 100 && service_ > 0; ++i) {
    if (waitpid(service_, nullptr, WNOHANG) == service_) service_ = -1;
    std::this_thread::sleep_for(50ms);
  }
  if (service_ > 0) {
    kill(service_, SIGKILL);
    waitpid(service_, nullptr, 0);
    service_ = -1;
  }
  end_monitors(directory_.path());
  remove_groups();
}

}  // namespace espalier::envs::testing
