// The in-process generation engine behind the Policy contract.
#pragma once

#include <memory>
#include <string>

#include "policy/policy.h"

namespace espalier::policy {

struct EngineOptions {
  bool deterministic = false;   // lock-step rounds
  size_t max_batch = 512;       // rows decoded at once
  std::string device = "auto";  // auto | cpu | cuda
};

struct EngineStats {
  uint64_t rounds = 0;  // decode steps
  uint64_t generated_tokens = 0;
  uint64_t prefill_tokens = 0;
  uint64_t cached_tokens = 0;
  double busy_seconds = 0;
};

/// One engine thread that batches all waiting requests. Throughput mode: continuous batching. Owns
/// its thread; destruction closes it.
class Engine : public Policy {
 public:
  virtual EngineStats stats() const = 0;
};
std::unique_ptr<Engine> make_engine(WeightsPtr weights, const EngineOptions& options);

}  // namespace espalier::policy
