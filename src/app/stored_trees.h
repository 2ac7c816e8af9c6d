// The stored trees of a run, for training offline.
#pragma once

#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "common/bounded_queue.h"
#include "common/config.h"
#include "tree/trace_tree.h"

namespace espalier::app {

/// Steps whose stored trees data.trees has one after the other, up to trainer.total_steps.
uint64_t count_stored_steps(const common::Config& config);

/// Reads the batches of data.trees ahead, through a bounded queue, while others are learned from.
/// Thread contract: one owner.
class StoredTrees {
 public:
  StoredTrees(const common::Config& config, uint64_t first_step);
  ~StoredTrees();
  StoredTrees(const StoredTrees&) = delete;
  StoredTrees& operator=(const StoredTrees&) = delete;

  /// The next step's. Errors: StoreError, also when there are no more.
  std::vector<tree::Tree> next();

 private:
  void read(uint64_t first_step);

  const common::Config config_;
  common::BoundedQueue<std::vector<tree::Tree>> batches_;
  std::exception_ptr error_;  // set before the queue is closed
  std::thread reader_;
};

}  // namespace espalier::app
