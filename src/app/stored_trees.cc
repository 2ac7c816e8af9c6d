#include "app/stored_trees.h"

#include "app/counterfactual.h"
#include "common/error.h"
#include "tree/store.h"

namespace espalier::app {

namespace {
constexpr size_t kBatchesAhead = 2;
}

uint64_t count_stored_steps(const common::Config& config) {
  const uint64_t total = static_cast<uint64_t>(config.trainer.total_steps);
  uint64_t stored = 0;
  while (stored < total && std::filesystem::exists(tree::shard_path(config.data.trees, stored)))
    ++stored;
  return stored;
}

StoredTrees::StoredTrees(const common::Config& config, uint64_t first_step)
    : config_(config), batches_(kBatchesAhead), reader_([this, first_step] { read(first_step); }) {}

StoredTrees::~StoredTrees() {
  batches_.close();
  reader_.join();
}

void StoredTrees::read(uint64_t first_step) {
  try {
    const uint64_t steps = count_stored_steps(config_);
    for (uint64_t step = first_step; step < steps; ++step) {
      auto trees = tree::read_trees(tree::shard_path(config_.data.trees, step));
      if (config_.data.counterfactuals) join_counterfactuals(config_.data.trees, trees);
      if (!batches_.push(std::move(trees))) return;
    }
  } catch (...) {
    error_ = std::current_exception();
  }
  batches_.close();
}

std::vector<tree::Tree> StoredTrees::next() {
  if (auto trees = batches_.pop()) return std::move(*trees);
  if (error_) std::rethrow_exception(error_);
  throw common::StoreError("data.trees: '" + config_.data.trees + "' has no more stored steps");
}

}  // namespace espalier::app
