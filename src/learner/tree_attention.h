// Exact attention over packed trees from library kernels. Sees torch.
//
// Each piece of the plan gives (out, lse); pieces of the same query are merged by
//   lse = log Σ exp(lse_i),   out = Σ out_i · exp(lse_i − lse).
// The gradient is exact when every piece's backward is called with the merged out and lse
// (FlashAttention, Dao et al. 2022, eqs. of appendix B: P = exp(S − lse), D = rowsum(dO ∘ O)), and
// the pieces' gradients are summed.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <vector>

#include "learner/attention_plan.h"

namespace espalier::learner {

/// fused: LibTorch's CPU flash attention; plain: matrix products, on any device; automatic: fused
/// on the CPU, plain elsewhere.
enum class AttentionKernels { automatic, fused, plain };

/// The index tensors of a PieceGroup.
struct GroupTensors {
  bool causal = false;
  int64_t batch = 0, queries = 0, keys = 0;
  at::Tensor query_rows, key_rows;
  at::Tensor gradient_rows;  // query_rows, padding sent to the zero row behind the last token
  at::Tensor query_tokens, query_slots, key_tokens, key_slots;
  at::Tensor key_padding;  // [batch, 1, 1, keys] bool; undefined: none
};

/// Shared by all layers, forward and backward, of one micro-batch; immutable.
struct AttentionLayout : torch::CustomClassHolder {
  int64_t tokens = 0;
  AttentionKernels kernels = AttentionKernels::automatic;
  std::vector<GroupTensors> groups;
};
using AttentionLayoutPtr = c10::intrusive_ptr<AttentionLayout>;

AttentionLayoutPtr make_layout(const AttentionPlan& plan, at::Device device,
                               AttentionKernels kernels = AttentionKernels::automatic);

/// Keys and values of a walk's unit in one layer, and the gradient that its descendants have
/// added up.
struct PathKv : torch::CustomClassHolder {
  at::Tensor k, v;    // [tokens, heads, head_dim]
  at::Tensor dk, dv;  // float32 (float64); undefined: none yet
};
using PathKvPtr = c10::intrusive_ptr<PathKv>;

/// What a unit of a walk (walk_plan.h) sees besides its own tokens, in one layer.
struct PathContext : torch::CustomClassHolder {
  std::vector<PathKvPtr> past;  // of the units above: every token attends to all of theirs
  PathKvPtr own;                // filled in the forward pass, added in the backward pass
};
using PathContextPtr = c10::intrusive_ptr<PathContext>;

/// q [N, heads, head_dim], k and v [N, kv_heads, head_dim] of one dtype (float64, float32,
/// bfloat16), heads a multiple of kv_heads → [N, heads, head_dim]. Differentiable once. Gradients
/// of keys and values are accumulated in float32 (float64 for float64). Deterministic on the CPU
/// for a fixed number of threads. With a `path` the backward pass adds to its units' dk and dv.
at::Tensor tree_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const AttentionLayoutPtr& layout, const PathContextPtr& path = {});

}  // namespace espalier::learner
