// Log-probs and entropies of edges, without ever holding all logits. Sees torch.
#pragma once

#include <ATen/core/Tensor.h>

namespace espalier::learner {

struct EdgeDistribution {
  at::Tensor log_probs;  // [E] of the target tokens, float32 (float64 for float64)
  at::Tensor entropies;  // [E] nats
};

/// hidden [N, hidden], head [vocab, hidden] (the embedding when tied), states and targets [E] int64
/// (rows of hidden; token ids). Logits are made for edges alone, a chunk at a time, and made again
/// in the backward pass. Both results are differentiable once in hidden and head.
EdgeDistribution edge_distribution(const at::Tensor& hidden, const at::Tensor& head,
                                   const at::Tensor& states, const at::Tensor& targets);

}  // namespace espalier::learner
