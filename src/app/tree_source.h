// Where the trees of a training step come from: rolled out, in time or a step ahead of the
// training, or stored by another run.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <optional>
#include <vector>

#include "app/session.h"
#include "app/stored_trees.h"
#include "tree/journal.h"
#include "tree/trace_tree.h"

namespace espalier::app {

/// What an earlier process of the run left of the step it was interrupted in.
struct Interrupted {
  uint64_t step = 0;
  tree::JournalPosition from;  // where the step begins in the journal
};

/// Thread contract: one owner. The weights that are published must not change while a rollout is
/// under way: every tree is of one version.
class TreeSource {
 public:
  /// The session must outlive it. on_tick(step): now and then while trees are waited for; on any
  /// thread, one at a time.
  TreeSource(Session& session, const RunDirectory& run, std::function<void(uint64_t step)> on_tick);
  /// Ends a rollout that is under way.
  ~TreeSource();

  /// Trees that an interrupted step had finished are taken over (not in the deterministic mode).
  void go_on_from(Interrupted interrupted) { interrupted_ = interrupted; }

  /// Begins to roll the step out; at most one is under way.
  void begin(uint64_t step);
  bool begun() const { return under_way_.valid(); }
  /// Until the step that was begun is rolled out, whatever comes of it.
  void settle();
  /// The step's trees, in order of their index: waits for them if they were begun, else rolls them
  /// out now. Errors: Cancelled, StoreError.
  std::vector<tree::Tree> take(uint64_t step);

 private:
  std::vector<tree::Tree> roll_out(uint64_t step);
  std::vector<tree::Tree> sealed_before_interruption(uint64_t step) const;

  Session& session_;
  const RunDirectory run_;
  const std::function<void(uint64_t step)> on_tick_;
  std::optional<Interrupted> interrupted_;
  std::optional<StoredTrees> stored_;  // of data.trees
  std::future<std::vector<tree::Tree>> under_way_;
};

}  // namespace espalier::app
