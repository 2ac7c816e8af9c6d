// The trainer's side of the spawner process (init/spawner.h).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/result.h"
#include "envs/reactor.h"
#include "envs/sandbox/fd.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {

struct SpawnerReplyFds {
  uint32_t value = 0;
  std::vector<Fd> fds;
};

struct SpawnerConfig {
  uint32_t uid_base = 100000;
  bool force_disk_upper = false;
  std::filesystem::path
      scratch;  // an existing directory of ours; uppers lie there where tmpfs cannot hold them
};

/// Thread contract: constructor and destructor on any thread but the reactor's, the rest on the
/// reactor's. Replies come on the reactor's thread; when the spawner is gone every call fails.
class Spawner {
 public:
  using Reply = common::Completion<SpawnerReplyFds>;

  /// Starts the process and waits until its skeleton stands (tens of milliseconds). Errors:
  /// SandboxError that says what this machine lacks.
  explicit Spawner(const SpawnerConfig& config);
  ~Spawner();
  Spawner(const Spawner&) = delete;
  Spawner& operator=(const Spawner&) = delete;

  /// Begins to serve replies on the reactor; detach() ends it. Both on the reactor's thread.
  void attach(Reactor* reactor);
  void detach();
  /// Ends the process and waits for it; after detach(), on any thread. The destructor does so too.
  void stop();

  /// Sends a request (a wire struct whose header's op is set) and its descriptors.
  void call(std::string request, std::vector<Fd> fds, Reply done);
  /// A request of a header alone.
  void call(wire::SpawnerOp op, uint64_t id, std::vector<Fd> fds, Reply done);
  void drop(uint64_t id);

  bool root_mode() const { return mode_ & wire::kModeRoot; }
  bool disk_upper() const { return mode_ & wire::kModeDiskUpper; }
  /// A uid of the sandbox as the trainer sees it.
  uint32_t outer_uid(uint32_t inner) const;

 private:
  struct Outgoing {
    std::string bytes;
    std::vector<Fd> fds;
  };
  void start_process(Fd child_end);
  void configure(const SpawnerConfig& config);
  void flush();
  void on_ready(uint32_t events);
  void fail_all(const std::string& why);

  Reactor* reactor_ = nullptr;
  Fd socket_;
  pid_t pid_ = -1;
  uint32_t mode_ = 0;
  uint32_t uid_base_ = 0;
  uint64_t next_ticket_ = 1;
  std::deque<Outgoing> outgoing_;
  std::unordered_map<uint64_t, Reply> waiting_;
  bool broken_ = false;
};

/// Text for a reply that failed.
std::string describe(const wire::SpawnerReply& reply);

}  // namespace espalier::envs::sandbox
