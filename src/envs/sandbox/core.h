// What all environments of one sandbox backend share.
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/files.h"
#include "common/rng.h"
#include "envs/reactor.h"
#include "envs/sandbox/backend.h"
#include "envs/sandbox/cgroups.h"
#include "envs/sandbox/cradles.h"
#include "envs/sandbox/networks.h"
#include "envs/sandbox/spawner.h"
#include "envs/threads.h"

namespace espalier::envs::sandbox {

class ImageRoots;
class Sandbox;
class Flattener;
struct Core;
struct StoredLayer;

/// A directory of files in the spawner's mount namespace: the upper of a sandbox, or read-only
/// below others. Dropped with its last owner. May be destroyed on any thread.
class Layer {
 public:
  Layer(std::weak_ptr<Core> core, uint64_t id) : core_(std::move(core)), id_(id) {}
  ~Layer();
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;
  uint64_t id() const { return id_; }

  /// What the snapshot store has of a read-only layer, once it has. On the reactor's thread.
  std::shared_ptr<const StoredLayer> stored;

 private:
  std::weak_ptr<Core> core_;
  uint64_t id_;
};
using LayerPtr = std::shared_ptr<Layer>;

/// What lies below all layers of an environment: an image.
struct BaseImage {
  std::string identity;          // equal on every machine that has it; snapshots record it
  std::vector<LayerPtr> layers;  // topmost first; none: the skeleton, for the image "host"
};

inline constexpr size_t kWorkers = 4;  // snapshots mostly wait, for pipes and for the disk

/// Owned by the backend and, weakly or for the time of an operation, by its environments. Members
/// are used on the reactor's thread unless they say otherwise.
struct Core : std::enable_shared_from_this<Core> {
  explicit Core(SandboxOptions options);
  ~Core();

  /// Kills every sandbox, waits until they are gone (at most 10 s) and stops the reactor. Not on
  /// its thread.
  void close();
  /// Runs task on the reactor's thread (any thread).
  void post(Reactor::Task task) { reactor.post(std::move(task)); }
  /// A layer holding this pack; done comes on the reactor's thread.
  void add_layer(std::string pack, Completion<LayerPtr> done);
  LayerPtr new_layer() { return std::make_shared<Layer>(weak_from_this(), next_id++); }
  /// The base of an environment. On the reactor's thread. Errors: SandboxError, TaskError.
  void find_base(const EnvironmentSpec& spec, Completion<BaseImage> done);
  /// Of a sandbox, for the kernel to count by user namespace where no control group does; 0: none.
  uint32_t process_limit(const Limits& limits) const {
    return cgroups.limits_processes() || !limits.pids ? 0 : uint32_t(limits.pids + 2);
  }
  /// The process that freezes and copies the session of the sandbox with this upper.
  Channel& keeper(uint64_t id) { return *keepers[id % keepers.size()]; }
  /// Where that keeper works; -1: anywhere, there is one processor only.
  int keeper_processor(uint64_t id) const {
    return processors.size() < 2 ? -1 : processors[id % keepers.size() % processors.size()];
  }
  /// Holds back a finished command for the determinism test; calls go at once without it.
  void after_delay(std::function<void()> go);

  const SandboxOptions options;
  std::optional<common::TempDir> scratch;  // for uppers on disk, where they may be needed
  Spawner spawner;
  CgroupPool cgroups;
  const std::vector<int> processors;  // that this process may run on
  NetworkPool networks;
  CradlePool cradles;
  std::vector<std::unique_ptr<Channel>> keepers;  // none: sessions cannot be forked live here
  std::unique_ptr<ImageRoots> images;             // any thread
  std::unordered_set<std::shared_ptr<Sandbox>> sandboxes;        // running, or dying until reaped
  std::unordered_map<std::string, std::weak_ptr<Layer>> opened;  // by their name in the store
  std::unique_ptr<Flattener> flattener;
  uint64_t next_id = 1;
  uint64_t delays = 0;
  bool closing = false;
  std::atomic<size_t> live{0};  // environments (any thread)
  Threads worker{kWorkers};     // blocking work (any thread)
  Reactor reactor;              // last: its thread uses all of the above
};

}  // namespace espalier::envs::sandbox
