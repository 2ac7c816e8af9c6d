#include "envs/image/builder.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "common/error.h"
#include "common/files.h"
#include "envs/sandbox/fd.h"

namespace espalier::envs::image {
namespace {

namespace fs = std::filesystem;

constexpr auto kTimeout = std::chrono::minutes(10);  // Harbor's default for a build
constexpr int kPollMs = 50;
constexpr size_t kMaxOutputBytes = 1 << 20;
constexpr size_t kShownBytes = 2000;

struct Ended {
  int exit_code = 0;
  std::string output;
};

/// Starts the program in a process group of its own, its output going into `out`.
pid_t start(const fs::path& program, const std::vector<std::string>& arguments, int out) {
  std::vector<std::string> strings = {program.filename().string()};
  strings.insert(strings.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& text : strings) argv.push_back(text.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out, 1);
  posix_spawn_file_actions_adddup2(&actions, out, 2);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
  pid_t child = -1;
  int error = posix_spawn(&child, program.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error)
    throw common::TaskError("image: start " + program.string() + ": " + std::strerror(error));
  return child;
}

/// Runs the program to its end; its output is kept for messages and answers.
Ended run(const fs::path& program, const std::vector<std::string>& arguments,
          const std::atomic<bool>& cancelled) {
  sandbox::Pipe pipe = sandbox::make_pipe(true, false);
  pid_t child = start(program, arguments, pipe.write.get());
  pipe.write.reset();
  Ended ended;
  auto deadline = std::chrono::steady_clock::now() + kTimeout;
  std::string stopped;
  for (;;) {
    pollfd wait{pipe.read.get(), POLLIN, 0};
    poll(&wait, 1, kPollMs);
    char buffer[16 * 1024];
    ssize_t n = read(pipe.read.get(), buffer, sizeof buffer);
    if (n > 0) ended.output.append(buffer, size_t(n));
    if (ended.output.size() > kMaxOutputBytes)
      ended.output.erase(0, ended.output.size() - kMaxOutputBytes / 2);
    if (n == 0) break;
    if (n < 0 && errno != EAGAIN && errno != EINTR) break;
    if (cancelled) stopped = "cancelled";
    if (std::chrono::steady_clock::now() > deadline) stopped = "not done after 10 minutes";
    if (!stopped.empty()) break;
  }
  if (!stopped.empty()) kill(-child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (cancelled) throw common::Cancelled("building the image was cancelled");
  if (!stopped.empty())
    throw common::TaskError("image: " + program.string() + " " + arguments.front() + ": " +
                            stopped);
  ended.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ended;
}

[[noreturn]] void refuse(const std::string& what, const Ended& ended) {
  std::string tail =
      ended.output.substr(ended.output.size() - std::min(ended.output.size(), kShownBytes));
  throw common::TaskError("image: " + what + " ended with code " + std::to_string(ended.exit_code) +
                          ":\n" + tail);
}

std::string trimmed(std::string text) {
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  return text.substr(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
}

}  // namespace

fs::path find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string directories = path ? path : "/usr/local/bin:/usr/bin:/bin";
  for (size_t at = 0; at <= directories.size();) {
    size_t end = std::min(directories.find(':', at), directories.size());
    fs::path program = fs::path(directories.substr(at, end - at)) / name;
    if (end > at && access(program.c_str(), X_OK) == 0) return program;
    at = end + 1;
  }
  return {};
}

std::string version_of(const fs::path& program) {
  std::atomic<bool> never{false};
  Ended ended = run(program, {"--version"}, never);
  if (ended.exit_code) refuse(program.string() + " --version", ended);
  return trimmed(ended.output.substr(0, ended.output.find('\n')));
}

std::optional<Builder> find_builder() {
  for (const char* name : {"podman", "buildah"})
    if (fs::path program = find_program(name); !program.empty()) return Builder{name, program};
  return std::nullopt;
}

std::string build(const Builder& builder, const fs::path& dockerfile, const fs::path& scratch,
                  const std::atomic<bool>& cancelled) {
  fs::path id_file = scratch / "id";
  // Both take "build"; files as Docker reads them, not the builder's own format.
  Ended ended = run(builder.program,
                    {"build", "--format", "docker", "--iidfile", id_file.string(), "-f",
                     dockerfile.string(), dockerfile.parent_path().string()},
                    cancelled);
  if (ended.exit_code) refuse(builder.name + " build -f " + dockerfile.string(), ended);
  try {
    return trimmed(common::read_file(id_file));
  } catch (const common::StoreError& error) {
    throw common::TaskError("image: " + builder.name + " build left no id: " + error.what());
  }
}

std::optional<std::string> id_of(const Builder& builder, const std::string& name,
                                 const std::atomic<bool>& cancelled) {
  std::vector<std::string> arguments =
      builder.name == "podman"
          ? std::vector<std::string>{"image", "inspect", "--format", "{{.Id}}", "--", name}
          : std::vector<std::string>{"inspect",          "--type", "image", "--format",
                                     "{{.FromImageID}}", "--",     name};
  Ended ended = run(builder.program, arguments, cancelled);
  if (ended.exit_code) return std::nullopt;
  std::string answer = trimmed(ended.output);
  // Warnings may come first.
  return answer.substr(answer.rfind('\n') + 1);
}

void save(const Builder& builder, const std::string& id, const fs::path& archive,
          const std::atomic<bool>& cancelled) {
  std::vector<std::string> arguments =
      builder.name == "podman"
          ? std::vector<std::string>{"save", "--format",       "docker-archive",
                                     "-o",   archive.string(), id}
          : std::vector<std::string>{"push", id, "docker-archive:" + archive.string()};
  Ended ended = run(builder.program, arguments, cancelled);
  if (ended.exit_code) refuse(builder.name + " " + arguments.front() + " of image " + id, ended);
}

}  // namespace espalier::envs::image
