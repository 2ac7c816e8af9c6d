// A packed micro-batch as tensors, and the model's pass over it. Sees torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "learner/edge_head.h"
#include "learner/packing.h"
#include "learner/tree_attention.h"
#include "policy/weights.h"

namespace espalier::learner {

/// Columns of Packed on the model's device; floats in the type of log-probs.
struct MicroBatch {
  at::Tensor tokens, positions;  // [N] int64
  AttentionLayoutPtr layout;
  at::Tensor states, targets;  // [E] int64: rows of the hidden states; token ids
  at::Tensor rollout_log_probs, s_plus, s_minus, share, weight, scale;  // [E]
  at::Tensor old_log_probs;                                             // [E]; set by the learner
};

/// Errors: PolicyError when a token lies outside the vocabulary.
MicroBatch make_micro_batch(const Packed& packed, const std::vector<double>& scale,
                            const policy::Weights& weights);

/// Log-probs and entropies of the micro-batch's edges, differentiable in the weights that require
/// gradients.
EdgeDistribution forward(const policy::Weights& weights, const MicroBatch& batch);

}  // namespace espalier::learner
