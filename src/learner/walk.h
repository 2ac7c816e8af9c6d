// The pass over a tree that is too large to be computed at once. Sees torch.
#pragma once

#include "learner/edge_head.h"
#include "learner/tree_attention.h"
#include "learner/walk_plan.h"
#include "policy/transformer.h"

namespace espalier::learner {

struct WalkStep {
  int parent = -1;               // step it continues
  at::Tensor tokens, positions;  // [n] int64
  AttentionLayoutPtr layout;
  at::Tensor states, targets;  // [e] int64: rows of the step's hidden states; token ids
  at::Tensor edges;            // [e] int64: which of the tree's edges they are
};

struct Walk {
  std::vector<WalkStep> steps;  // depth first
  int64_t edges = 0;            // of the tree
};

Walk make_walk(const std::vector<WalkUnit>& units, const Packed& packed, at::Device device);

/// Log-probs and entropies of all edges, without a graph: one path's keys and values live at a
/// time.
EdgeDistribution evaluate(const policy::Weights& weights, const Walk& walk);

/// Gradient of the edges' log-probs and entropies [E] → added to that of the weights. Computes the
/// tree again, depth first: a unit's backward pass comes when all below it is done, and takes along
/// what they added to its keys and values (float32 sums).
void backward(const policy::Weights& weights, const Walk& walk, const at::Tensor& of_log_probs,
              const at::Tensor& of_entropies, const policy::LayerRunner& run);

}  // namespace espalier::learner
