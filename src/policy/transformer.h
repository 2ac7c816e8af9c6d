// The transformer's mathematics, once: used by the generation engine (cached attention) and by the
// learner (packed tree attention). RMSNorm, RoPE, GQA, SwiGLU, optional QK-norm, tied embeddings
// (Qwen3). Sees torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "policy/weights.h"

namespace espalier::policy {

/// Attention of one layer over N packed tokens: q [N, heads, head_dim], k and v [N, kv_heads,
/// head_dim] (rotated already) → [N, heads, head_dim]. The caller knows which token sees which.
using Attention = std::function<at::Tensor(int layer, const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v)>;

/// One layer, hidden [N, hidden] → [N, hidden]; borrows the weights.
using LayerFunction = std::function<at::Tensor(const at::Tensor&)>;
/// Calls a layer in its own way: to compute it again in the backward pass, for one.
using LayerRunner = std::function<at::Tensor(const LayerFunction& layer, const at::Tensor& hidden)>;

/// tokens [N] int64, positions [N] int64 (depth on the path) → final hidden states after the last
/// norm [N, hidden]. Differentiable when the weights require gradients. `run` may be empty.
at::Tensor forward_hidden(const Weights& weights, const at::Tensor& tokens,
                          const at::Tensor& positions, const Attention& attention,
                          const LayerRunner& run = {});

/// hidden [M, hidden] → logits [M, vocab].
at::Tensor lm_head(const Weights& weights, const at::Tensor& hidden);

}  // namespace espalier::policy
