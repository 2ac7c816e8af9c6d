// Environments that a tree keeps behind some of its nodes, for a rule that looks back: nothing runs
// in them, so a branch made later forks live. Internal to rollout/.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "envs/environment.h"
#include "rollout/session.h"

namespace espalier::rollout {

struct KeptNode {
  double entropy = 0;                // at the decision behind it
  envs::ForkKind kind = {};          // how the environment came to be
  std::unique_ptr<Session> session;  // null: not made (yet)
};

/// Keeps the nodes with the most uncertain decisions behind them: those that rules go back to.
/// Thread contract: any thread, but for find(), whose result lasts until the next claim().
class KeptNodes {
 public:
  explicit KeptNodes(size_t limit) : limit_(limit) {}

  /// Whether the environment behind the node is to be put here; the least uncertain node gives way.
  /// Called in an order that depends on the seed alone in the deterministic mode.
  bool claim(const std::string& path, double entropy) {
    KeptNode displaced;  // goes when the lock is gone
    std::lock_guard lock(mutex_);
    if (limit_ == 0) return false;
    if (nodes_.size() >= limit_) {
      auto least = nodes_.begin();
      for (auto node = nodes_.begin(); node != nodes_.end(); ++node)
        if (node->second.entropy < least->second.entropy) least = node;
      if (entropy <= least->second.entropy) return false;
      displaced = std::move(least->second);
      nodes_.erase(least);
    }
    nodes_[path].entropy = entropy;
    return true;
  }

  /// No effect when another node has taken its place.
  void put(const std::string& path, envs::ForkKind kind, std::unique_ptr<Session> session) {
    std::lock_guard lock(mutex_);
    const auto node = nodes_.find(path);
    if (node == nodes_.end()) return;
    node->second.kind = kind;
    node->second.session = std::move(session);
  }

  /// Null: not kept.
  KeptNode* find(const std::string& path) {
    std::lock_guard lock(mutex_);
    const auto node = nodes_.find(path);
    return node == nodes_.end() || !node->second.session ? nullptr : &node->second;
  }

  void clear() {
    std::lock_guard lock(mutex_);
    nodes_.clear();
  }

 private:
  const size_t limit_;
  std::mutex mutex_;
  std::map<std::string, KeptNode> nodes_;  // by path
};

}  // namespace espalier::rollout
