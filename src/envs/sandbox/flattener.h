// Keeps stacks of layers shallow: past a depth the lowest are merged into one, in the background.
//
// A running sandbox keeps its mounts; what starts from it next (a fork, a snapshot) starts over the
// merged layer. Merges are shared: sandboxes whose lowest layers are the same get the same one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "envs/sandbox/core.h"
#include "envs/sandbox/sandbox.h"

namespace espalier::envs::sandbox {

inline constexpr size_t kMaxDepth = 16;      // layers above the image, before some are merged
inline constexpr size_t kMergedLayers = 12;  // of the lowest, at a time
inline constexpr size_t kTooDeep = 128;      // here forks wait for merges

/// Thread contract: the reactor's thread. Owned by the core.
class Flattener {
 public:
  explicit Flattener(Core* core) : core_(core) {}

  /// Merges layers when these are too many; every sandbox over the same ones profits. A merge that
  /// fails is tried again when the next sandbox starts over the layers.
  void consider(const SandboxSeed& seed);

  /// Calls go at once, or, where forks are faster than merges, when the sandbox's layers are few
  /// enough again for one more (or merging them has failed).
  void settle(const std::shared_ptr<Sandbox>& sandbox, std::function<void()> go);

 private:
  using Ids = std::vector<uint64_t>;  // of the layers to merge, topmost first
  struct Merge {
    std::vector<LayerPtr> layers;  // kept while they are read
    std::vector<std::function<void(bool)>> waiting;
  };
  static Ids lowest(const SandboxSeed& seed);
  void merge(const SandboxSeed& seed, const Ids& ids);
  void replace(const Ids& ids, const LayerPtr& merged);

  Core* core_;
  std::map<Ids, std::weak_ptr<Layer>> merged_;  // expired: being made, or no longer used
  std::map<Ids, Merge> pending_;
};

}  // namespace espalier::envs::sandbox
