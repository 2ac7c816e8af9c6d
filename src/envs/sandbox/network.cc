#include "envs/sandbox/network.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "common/error.h"

namespace espalier::envs::sandbox {
namespace {

constexpr const char* kProgram = "slirp4netns";
constexpr int kReadyFd = 3, kAliveFd = 4;

/// Full path, also of what lies outside an unprivileged user's PATH; empty: not installed.
std::string find_program() {
  const char* set = std::getenv("PATH");
  std::istringstream places(std::string(set ? set : "") +
                            ":/usr/local/bin:/usr/bin:/bin:/usr/sbin");
  for (std::string place; std::getline(places, place, ':');) {
    std::string path = place + "/" + kProgram;
    if (!place.empty() && access(path.c_str(), X_OK) == 0) return path;
  }
  return "";
}

/// Starts the program with these two descriptors and nothing else of ours.
pid_t start(const std::vector<std::string>& words, int ready, int alive) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  for (int fd = 0; fd < 3; ++fd)
    posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
  posix_spawn_file_actions_adddup2(&actions, ready, kReadyFd);
  posix_spawn_file_actions_adddup2(&actions, alive, kAliveFd);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  char* env[] = {nullptr};
  pid_t pid = -1;
  errno = posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), env);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (errno) throw_errno("start " + words.front());
  return pid;
}

}  // namespace

std::string why_no_network() {
  if (!find_program().empty()) {
    if (access("/dev/net/tun", R_OK | W_OK) == 0) return "";
    return "/dev/net/tun cannot be opened: load the module tun, or pass the device into the "
           "container (--device /dev/net/tun)";
  }
  return "slirp4netns is not installed: install the package slirp4netns, or set env.network to "
         "false";
}

PublicNetwork::PublicNetwork(pid_t init, pid_t supervisor) {
  const std::string missing = why_no_network();
  if (!missing.empty()) throw common::Unsupported("give a sandbox the public network: " + missing);
  std::vector<std::string> words = {find_program(),
                                    "--configure",
                                    "--disable-host-loopback",
                                    "--mtu=65520",
                                    "--ready-fd=" + std::to_string(kReadyFd),
                                    "--exit-fd=" + std::to_string(kAliveFd)};
  // It confines itself too; that takes mounts, which an unprivileged user's process cannot make.
  if (supervisor == 0) words.push_back("--enable-sandbox");
  if (supervisor != 0)
    words.push_back("--userns-path=/proc/" + std::to_string(supervisor) + "/ns/user");
  words.insert(words.end(),
               {"--netns-type=path", "/proc/" + std::to_string(init) + "/ns/net", "tap0"});
  Pipe ready = make_pipe(true, false), alive = make_pipe(false, false);
  // Duplicates above the descriptors that the program gets, so that none of these is overwritten.
  Fd ready_end(fcntl(ready.write.get(), F_DUPFD_CLOEXEC, kAliveFd + 1));
  Fd alive_end(fcntl(alive.read.get(), F_DUPFD_CLOEXEC, kAliveFd + 1));
  if (!ready_end || !alive_end) throw_errno("duplicate a descriptor");
  pid_ = start(words, ready_end.get(), alive_end.get());
  ready_ = std::move(ready.read);
  alive_ = std::move(alive.write);
}

PublicNetwork::~PublicNetwork() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

bool PublicNetwork::up() {
  char byte;
  return read(ready_.get(), &byte, 1) == 1;
}

pid_t pid_of(int pidfd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(pidfd));
  pid_t pid = -1;
  for (std::string word; info >> word;)
    if (word == "Pid:") info >> pid;
  if (pid <= 0) throw common::SandboxError("find a sandbox's first process: it has ended");
  return pid;
}

}  // namespace espalier::envs::sandbox
