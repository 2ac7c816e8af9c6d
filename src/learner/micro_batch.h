// A packed micro-batch as tensors, and the model's passes over it. Sees torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "learner/edge_head.h"
#include "learner/loss.h"
#include "learner/packing.h"
#include "learner/tree_attention.h"
#include "learner/walk.h"
#include "policy/weights.h"

namespace espalier::learner {

/// Columns of Packed on the model's device; floats in the type of log-probs.
struct MicroBatch {
  at::Tensor tokens, positions;  // [N] int64
  AttentionLayoutPtr layout;     // null: it is walked
  Walk walk;                     // of a tree above the token budget
  at::Tensor states, targets;    // [E] int64: rows of the hidden states; token ids
  at::Tensor rollout_log_probs, s_plus, s_minus, share, weight, scale;  // [E]
  LossPaths paths;                                                      // where packed with them
  at::Tensor old_log_probs, reference_log_probs;                        // [E]; set by the learner
};

struct MicroBatchOptions {
  int64_t max_tokens = 0;  // a single tree above it is walked depth first; 0: never
};

/// Errors: PolicyError when a token lies outside the vocabulary.
MicroBatch make_micro_batch(const Packed& packed, const std::vector<double>& scale,
                            const policy::Weights& weights, const MicroBatchOptions& options = {});

/// Log-probs and entropies of the micro-batch's edges, differentiable in the weights that require
/// gradients; not for one that is walked. `run`: policy/transformer.h.
EdgeDistribution forward(const policy::Weights& weights, const MicroBatch& batch,
                         const policy::LayerRunner& run = {});

/// The same without a graph, of any micro-batch.
EdgeDistribution evaluate(const policy::Weights& weights, const MicroBatch& batch);

/// Adds the gradient of `loss(edges)` to that of the weights; returns what the loss returned. A
/// walked tree takes a pass without a graph first, as a loss may tie any of its edges together.
LossOutput backward(const policy::Weights& weights, const MicroBatch& batch,
                    const std::function<LossOutput(const EdgeDistribution&)>& loss,
                    const policy::LayerRunner& run = {});

/// What the loss sees of the micro-batch and its edges' distributions. Where the batch has no old
/// log-probs the policy is its own: r = 1.
LossInput loss_input(const MicroBatch& batch, const EdgeDistribution& edges);

}  // namespace espalier::learner
