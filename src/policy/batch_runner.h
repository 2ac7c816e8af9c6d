// The engine's work on tensors: admits requests into a dense batch, decodes a token for each row,
// retires what is done. No torch in this header.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "policy/model_config.h"
#include "policy/policy.h"

namespace espalier::policy {

/// One request on its way through the engine.
struct Row {
  GenerateRequest request;
  bool entropy_only = false;  // prefill(): the first distribution is looked at, nothing is sampled
  size_t index = 0;           // place in its deterministic batch
  common::Completion<Generation> generated;
  common::Completion<Prefilled> prefilled;

  Generation result;  // grows while the row is decoded
  double first_entropy = 0;
};
using RowPtr = std::unique_ptr<Row>;

/// Thread contract: one owner (the engine thread). After an exception of admit() or step() the
/// owner takes all rows back by clear(); the runner is then empty and usable. Errors: PolicyError.
class BatchRunner {
 public:
  explicit BatchRunner(std::string device);
  ~BatchRunner();

  /// Only while no row is active. KV of earlier weights is not used again.
  void set_weights(WeightsPtr weights, uint64_t version);

  /// Takes rows into the batch: computes what KV of their contexts is missing (shared spans once)
  /// and keeps it with the contexts. Contexts hold between 1 and context-limit − 1 tokens.
  void admit(std::vector<RowPtr> rows);
  /// One token for every active row. Returns the rows that are done, their results complete, in no
  /// particular order.
  std::vector<RowPtr> step();
  std::vector<RowPtr> clear();
  size_t active() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The weights on `device`, without gradients; shared when they are there already.
WeightsPtr to_device(const WeightsPtr& weights, const std::string& device);

}  // namespace espalier::policy
