#include "envs/sandbox/spawner.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/error.h"
#include "envs/sandbox/seccomp.h"

extern "C" {
extern const char espalier_init_begin[];
extern const char espalier_init_end[];
}

namespace espalier::envs::sandbox {
namespace {

constexpr int kConfigureTimeoutMs = 10'000;

/// What a person can do about a refused step of the set-up.
std::string advice(const std::string& text) {
  if (text.find("NEWUSER") != std::string::npos || text.find("uid_map") != std::string::npos)
    return "; this machine does not let this user make user namespaces: as root set "
           "kernel.unprivileged_userns_clone=1, user.max_user_namespaces=10000 and "
           "kernel.apparmor_restrict_unprivileged_userns=0 (whichever exist) with sysctl, or run "
           "as root; in a container allow unshare (docker run --privileged, or a seccomp profile "
           "that "
           "permits it). `espalier doctor` lists what is missing";
  return "; `espalier doctor` lists what this machine lacks";
}

Fd program_file() {
  std::string_view program(espalier_init_begin, size_t(espalier_init_end - espalier_init_begin));
  Fd writable = make_memory_file("espalier-init", program);
  // Reopened for reading: a file open for writing cannot be executed.
  std::string path = "/proc/self/fd/" + std::to_string(writable.get());
  Fd readable(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!readable) throw_errno("open " + path + " (is /proc mounted?)");
  return readable;
}

}  // namespace

Spawner::Spawner(const SpawnerConfig& config) : uid_base_(config.uid_base) {
  auto [ours, theirs] = make_socket_pair();
  socket_ = std::move(ours);
  start_process(std::move(theirs));
  try {
    configure(config);
  } catch (...) {
    stop();
    throw;
  }
}

Spawner::~Spawner() { stop(); }

void Spawner::stop() {
  socket_.reset();
  if (pid_ > 0) waitpid(std::exchange(pid_, -1), nullptr, 0);
}

void Spawner::start_process(Fd child_end) {
  Fd program = program_file();
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  for (int fd = 0; fd < 3; ++fd)
    posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
  posix_spawn_file_actions_adddup2(&actions, child_end.get(), 3);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  // Its own session: Ctrl-C is for the trainer, which then ends it in order.
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  std::string path = "/proc/self/fd/" + std::to_string(program.get());
  char name[] = "espalier-init";
  char* argv[] = {name, nullptr};
  char* env[] = {nullptr};
  errno = posix_spawn(&pid_, path.c_str(), &actions, &attributes, argv, env);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (errno) throw_errno("start the sandbox supervisor");
}

void Spawner::configure(const SpawnerConfig& config) {
  std::string seccomp = build_seccomp_program();
  wire::ConfigureRequest request{};
  request.header.op = wire::SpawnerOp::configure;
  request.uid_base = config.uid_base;
  request.seccomp_bytes = uint32_t(seccomp.size());
  request.force_disk_upper = config.force_disk_upper;
  std::string bytes(reinterpret_cast<const char*>(&request), sizeof request);
  bytes += seccomp + config.scratch.string() + '\0' + config.images.string() + '\0';
  send_packet(socket_.get(), bytes, {});
  pollfd wait{socket_.get(), POLLIN, 0};
  Packet packet;
  if (poll(&wait, 1, kConfigureTimeoutMs) <= 0 || !receive_packet(socket_.get(), &packet))
    throw common::SandboxError("start the sandbox supervisor: no answer within 10 s");
  wire::SpawnerReply reply{};
  if (packet.bytes.size() == sizeof reply) std::memcpy(&reply, packet.bytes.data(), sizeof reply);
  if (packet.closed || packet.bytes.size() != sizeof reply)
    throw common::SandboxError("start the sandbox supervisor: it ended at once");
  if (reply.error) {
    std::string text = describe(reply);
    throw common::SandboxError("prepare sandboxes: " + text + advice(text));
  }
  mode_ = reply.value;
  if (!packet.fds.empty()) user_namespace_ = std::move(packet.fds.front());
}

uint32_t Spawner::outer_uid(uint32_t inner) const {
  return root_mode() ? uid_base_ + inner : geteuid();
}

void Spawner::attach(Reactor* reactor) {
  reactor_ = reactor;
  channel_.open(std::move(socket_), reactor);
}

void Spawner::detach() {
  channel_.close("the sandbox backend was closed");
  reactor_ = nullptr;
}

void Spawner::call(std::string request, std::vector<Fd> fds, Reply done) {
  channel_.call(std::move(request), std::move(fds), std::move(done));
}

void Spawner::call(wire::SpawnerOp op, uint64_t id, std::vector<Fd> fds, Reply done) {
  channel_.call(op, id, std::move(fds), std::move(done));
}

void Spawner::drop(uint64_t id) {
  if (reactor_) call(wire::SpawnerOp::drop, id, {}, nullptr);
}

void Spawner::attach_layer(uint64_t id, Fd mount, const std::string& path, Reply done) {
  wire::AttachRequest request{};
  request.header.op = wire::SpawnerOp::attach_layer;
  request.header.id = id;
  std::vector<Fd> fds;
  if (mount) fds.push_back(std::move(mount));
  call(std::string(reinterpret_cast<const char*>(&request), sizeof request) + path + '\0',
       std::move(fds), std::move(done));
}

std::unique_ptr<Channel> Spawner::start_helper(wire::SpawnerOp op, const std::vector<Fd>& groups) {
  auto [ours, theirs] = make_socket_pair();
  std::vector<Fd> fds;
  fds.push_back(std::move(theirs));
  for (const Fd& group : groups) fds.emplace_back(fcntl(group.get(), F_DUPFD_CLOEXEC, 0));
  auto channel = std::make_unique<Channel>();
  channel->open(std::move(ours), reactor_);
  call(op, 0, std::move(fds), nullptr);
  return channel;
}

}  // namespace espalier::envs::sandbox
