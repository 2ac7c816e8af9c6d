// The trainer's side of the spawner process (init/spawner.h).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "envs/reactor.h"
#include "envs/sandbox/channel.h"
#include "envs/sandbox/fd.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {

struct SpawnerConfig {
  uint32_t uid_base = 100000;
  bool force_disk_upper = false;
  std::filesystem::path
      scratch;  // an existing directory of ours; uppers lie there where tmpfs cannot hold them
  std::filesystem::path images;  // the image cache; empty: none
};

/// Thread contract: constructor and destructor on any thread but the reactor's, the rest on the
/// reactor's. Replies come on the reactor's thread; when the spawner is gone every call fails.
class Spawner {
 public:
  using Reply = Channel::Reply;

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

  /// As Channel's.
  void call(std::string request, std::vector<Fd> fds, Reply done);
  void call(wire::SpawnerOp op, uint64_t id, std::vector<Fd> fds, Reply done);
  void drop(uint64_t id);
  /// Makes a directory of the host a layer: a detached mount, or a path below the image cache.
  void attach_layer(uint64_t id, Fd mount, const std::string& path, Reply done);
  /// A further process of the supervisor: a cradle in these groups, or a keeper.
  std::unique_ptr<Channel> start_helper(wire::SpawnerOp op, const std::vector<Fd>& groups);

  pid_t process() const { return pid_; }
  bool root_mode() const { return mode_ & wire::kModeRoot; }
  bool disk_upper() const { return mode_ & wire::kModeDiskUpper; }
  /// How many live forks away from its start a sandbox can be; 0: none.
  uint32_t max_depth() const {
    uint32_t namespaces = mode_ >> wire::kModeDepthShift;
    return namespaces ? namespaces - 1 : 0;
  }
  /// Root mode: a user namespace that maps uids as every sandbox's does; else -1.
  int user_namespace() const { return user_namespace_.get(); }
  /// A uid of the sandbox as the trainer sees it.
  uint32_t outer_uid(uint32_t inner) const;

 private:
  void start_process(Fd child_end);
  void configure(const SpawnerConfig& config);

  Reactor* reactor_ = nullptr;
  Fd socket_;  // until attach()
  Fd user_namespace_;
  Channel channel_;
  pid_t pid_ = -1;
  uint32_t mode_ = 0;
  uint32_t uid_base_ = 0;
};

}  // namespace espalier::envs::sandbox
