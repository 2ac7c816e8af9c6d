// What all environments of one container backend share.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "envs/container/backend.h"
#include "envs/container/engine.h"
#include "envs/reactor.h"
#include "envs/sandbox/leftovers.h"
#include "envs/threads.h"

namespace espalier::envs::container {

struct Core;

// Labels of what the backend makes. Images hand theirs down, so each is set at every step.
inline constexpr const char* kOwnerLabel = "espalier.owner";  // sandbox::owner_tag() of the process
inline constexpr const char* kStoreLabel = "espalier.store";  // of a snapshot: its directory
inline constexpr const char* kSnapshotRepository = "localhost/espalier-snapshot";

/// An image of the engine. One made by a fork goes with its last owner; those above it hold it.
class Image {
 public:
  struct Config {
    std::string user;     // empty: root
    std::string workdir;  // empty: the image names none
    std::map<std::string, std::string> variables;
    std::vector<std::string> layers;  // digests, bottom first
  };
  Image(std::weak_ptr<Core> core, std::string id, Config config, bool temporary,
        std::shared_ptr<Image> parent)
      : core_(std::move(core)),
        id_(std::move(id)),
        config_(std::move(config)),
        temporary_(temporary),
        parent_(std::move(parent)) {}
  ~Image();
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  const std::string& id() const { return id_; }
  const Config& config() const { return config_; }

 private:
  std::weak_ptr<Core> core_;
  std::string id_;
  Config config_;
  bool temporary_;
  std::shared_ptr<Image> parent_;
};
using ImagePtr = std::shared_ptr<Image>;

/// Owned by the backend and its environments. Any thread.
struct Core : std::enable_shared_from_this<Core> {
  explicit Core(ContainerOptions options);

  /// Waits for every operation, removal included, and stops the reactor. Not on its thread.
  void close();
  /// The image of this name, or of the archive at this path. Errors: SandboxError, TaskError.
  ImagePtr find_image(const std::string& name);
  /// One by id. nullptr: the engine has none.
  ImagePtr inspect_image(const std::string& id, bool temporary, ImagePtr parent);
  /// Counts an environment to be started against max_live. Errors: SandboxError.
  void require_room(const std::string& what) const;

  const ContainerOptions options;
  Engine engine;
  const std::string owner = sandbox::owner_tag();
  std::atomic<size_t> live{0};
  std::mutex import_mutex;  // one import of an archive at a time
  Threads threads;
  Reactor reactor;  // last: completions run on its thread
};

}  // namespace espalier::envs::container
