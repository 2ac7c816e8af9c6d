// What all episodes of one farm share. Internal to rollout/.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#include "rollout/farm.h"
#include "rollout/harness.h"

namespace espalier::rollout {

struct BranchPoint;

/// Thread contract: any thread; owned by the farm, outlives every episode.
struct Shared {
  FarmParts parts;
  FarmOptions options;
  std::unique_ptr<Harness> harness;
  FarmProgress progress;
  std::atomic<bool> cancelled{false};
  std::mutex rule_mutex;  // around ForkRule::decide and the trees' fork counts
  std::function<void(BranchPoint)>
      continue_branch;  // starts a forked child as an episode of its own
  /// Starts branches of a tree whose episodes were over, as episodes of their own; in the
  /// deterministic mode when nothing else lives.
  std::function<void(std::vector<BranchPoint>)> revisit;
  std::function<void(std::exception_ptr)> fail;  // the run cannot go on (the journal is lost)

  void spend(const tree::Spend& spend) {
    if (parts.ledger) parts.ledger->add(spend);
  }
  bool budget_exhausted() const { return parts.ledger && parts.ledger->exhausted(); }
};

}  // namespace espalier::rollout
