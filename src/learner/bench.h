// Figures of `espalier bench learner`: packed against linearised training in one run. No torch in
// this header.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "policy/policy.h"

namespace espalier::learner {

/// Synthetic trees: `roots` episodes of `turns` turns behind one prompt, each branching once into
/// `branches`, after half of its turns.
struct TreeShape {
  int trees = 1, roots = 8, branches = 3, turns = 6;
  int prompt_tokens = 512, action_tokens = 24, observation_tokens = 48;
};

struct LearnerBench {
  TreeShape shape;
  int repetitions = 4;
  std::string device = "cpu";
  std::string dtype = "float32";
  uint64_t seed = 1;
};

/// A step: forward and backward pass of ppo_clip over the whole batch, no micro-batches, gradient
/// clipping and AdamW. The arms take turns, and times are each one's fastest step: what others do
/// on the machine only adds.
struct LearnerFigures {
  uint64_t tokens_packed = 0, tokens_linear = 0;
  double packed_ms = 0, linear_ms = 0;
  int64_t packed_peak_bytes = 0, linear_peak_bytes = 0;  // held by forward and backward pass
};
/// Errors: ConfigError for a shape without tokens.
LearnerFigures bench_learner(const policy::WeightsPtr& weights, const LearnerBench& bench);

/// The learner on episodes that never branch against a plain training step: a padded batch, one
/// causal attention call of the library a layer, and the same head, loss and optimizer.
struct UnbranchedFigures {
  uint64_t tokens = 0;
  double packed_ms = 0, dense_ms = 0;
};
UnbranchedFigures bench_unbranched(const policy::WeightsPtr& weights, const LearnerBench& bench);

}  // namespace espalier::learner
