#include "learner/tree_attention.h"

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <limits>
#include <tuple>

namespace espalier::learner {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

at::ScalarType wide(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

/// Inputs of one padded call, [batch, heads, extent, head_dim].
struct PieceInputs {
  at::Tensor q, k, v;
  bool causal = false;
  at::Tensor mask;  // additive, [batch, 1, 1, keys]; may be undefined
};

struct PieceResult {
  at::Tensor out;  // [batch, heads, queries, head_dim]
  at::Tensor lse;  // [batch, heads, queries], wide
};

struct PieceGradients {
  at::Tensor q, k, v;
};

std::optional<at::Tensor> optional_mask(const PieceInputs& piece) {
  if (!piece.mask.defined()) return std::nullopt;
  return piece.mask;
}

PieceResult fused_forward(const PieceInputs& piece) {
  auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
      piece.q, piece.k, piece.v, /*dropout_p=*/0.0, piece.causal, optional_mask(piece));
  return {out, lse};
}

PieceGradients fused_backward(const PieceInputs& piece, const PieceResult& merged,
                              const at::Tensor& grad) {
  auto [q, k, v] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      grad, piece.q, piece.k, piece.v, merged.out, merged.lse, /*dropout_p=*/0.0, piece.causal,
      optional_mask(piece));
  return {q, k, v};
}

/// Scaled and masked scores [batch, heads, queries, keys], wide.
at::Tensor plain_scores(const PieceInputs& piece) {
  const auto type = wide(piece.q.scalar_type());
  const double scale = 1.0 / std::sqrt(static_cast<double>(piece.q.size(-1)));
  at::Tensor scores = at::matmul(piece.q.to(type), piece.k.to(type).transpose(-2, -1)) * scale;
  if (piece.mask.defined()) scores = scores + piece.mask;
  if (piece.causal) {
    const at::Tensor hidden =
        at::ones({scores.size(-2), scores.size(-1)}, scores.options().dtype(at::kBool)).triu(1);
    scores = scores.masked_fill(hidden, kMinusInfinity);
  }
  return scores;
}

PieceResult plain_forward(const PieceInputs& piece) {
  const at::Tensor scores = plain_scores(piece);
  const at::Tensor lse = at::logsumexp(scores, {-1});
  const at::Tensor weights = at::exp(scores - lse.unsqueeze(-1));
  return {at::matmul(weights, piece.v.to(weights.scalar_type())).to(piece.q.scalar_type()), lse};
}

PieceGradients plain_backward(const PieceInputs& piece, const PieceResult& merged,
                              const at::Tensor& grad) {
  const auto type = wide(piece.q.scalar_type());
  const double scale = 1.0 / std::sqrt(static_cast<double>(piece.q.size(-1)));
  const at::Tensor weights = at::exp(plain_scores(piece) - merged.lse.unsqueeze(-1));
  const at::Tensor grad_out = grad.to(type);
  const at::Tensor row = (grad_out * merged.out.to(type)).sum({-1}, /*keepdim=*/true);
  const at::Tensor grad_scores =
      weights * (at::matmul(grad_out, piece.v.to(type).transpose(-2, -1)) - row) * scale;
  return {at::matmul(grad_scores, piece.k.to(type)),
          at::matmul(grad_scores.transpose(-2, -1), piece.q.to(type)),
          at::matmul(weights.transpose(-2, -1), grad_out)};
}

/// Rows of x [N, heads, ...] → [batch, heads, extent, ...].
at::Tensor gather(const at::Tensor& x, const at::Tensor& rows, int64_t batch, int64_t extent) {
  std::vector<int64_t> sizes = {batch, extent};
  for (int64_t dim = 1; dim < x.dim(); ++dim) sizes.push_back(x.size(dim));
  return x.index_select(0, rows).view(sizes).transpose(1, 2);
}

/// The inverse for the rows that are no padding: [batch, heads, extent, ...] → [slots, heads, ...].
at::Tensor scatter(const at::Tensor& x, const at::Tensor& slots, at::ScalarType type) {
  const at::Tensor rows = x.transpose(1, 2).contiguous();
  return rows.flatten(0, 1).index_select(0, slots).to(type);
}

void accumulate(at::Tensor& into, const at::Tensor& tokens, const at::Tensor& values) {
  into.flatten(1).index_add_(0, tokens, values.flatten(1));
}

PieceInputs piece_inputs(const GroupTensors& group, const at::Tensor& q, const at::Tensor& k,
                         const at::Tensor& v) {
  PieceInputs piece;
  piece.q = gather(q, group.query_rows, group.batch, group.queries);
  piece.k = gather(k, group.key_rows, group.batch, group.keys);
  piece.v = gather(v, group.key_rows, group.batch, group.keys);
  piece.causal = group.causal;
  if (group.key_padding.defined()) {
    piece.mask = at::zeros(group.key_padding.sizes(), q.options());
    piece.mask.masked_fill_(group.key_padding, kMinusInfinity);
  }
  return piece;
}

bool use_fused(const AttentionLayout& layout, const at::Tensor& q) {
  if (layout.kernels == AttentionKernels::automatic) return q.device().is_cpu();
  return layout.kernels == AttentionKernels::fused;
}

/// Adds a piece's result to the running (out, lse) of its queries.
void merge(at::Tensor& out, at::Tensor& lse, const GroupTensors& group, const at::Tensor& piece_out,
           const at::Tensor& piece_lse) {
  if (group.causal) {
    out.index_copy_(0, group.query_tokens, piece_out);
    lse.index_copy_(0, group.query_tokens, piece_lse);
    return;
  }
  const at::Tensor before = lse.index_select(0, group.query_tokens);
  const at::Tensor after = at::logaddexp(before, piece_lse);
  at::Tensor sum = out.index_select(0, group.query_tokens);
  sum.mul_(at::exp(before - after).unsqueeze(-1));
  sum.addcmul_(piece_out, at::exp(piece_lse - after).unsqueeze(-1));
  out.index_copy_(0, group.query_tokens, sum);
  lse.index_copy_(0, group.query_tokens, after);
}

/// [n, heads, ...] ↔ [1, heads, n, ...].
at::Tensor heads_first(const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); }
at::Tensor tokens_first(const at::Tensor& x) { return x.squeeze(0).transpose(0, 1); }

/// All of q against one unit above.
PieceInputs path_inputs(const at::Tensor& q, const PathKv& past) {
  PieceInputs piece;
  piece.q = heads_first(q);
  piece.k = heads_first(past.k);
  piece.v = heads_first(past.v);
  return piece;
}

void attend_to_path(const at::Tensor& q, const PathContext& path, bool fused, at::Tensor& out,
                    at::Tensor& lse) {
  for (const PathKvPtr& past : path.past) {
    const PieceInputs inputs = path_inputs(q, *past);
    const PieceResult piece = fused ? fused_forward(inputs) : plain_forward(inputs);
    const at::Tensor piece_lse = tokens_first(piece.lse);
    const at::Tensor after = at::logaddexp(lse, piece_lse);
    out.mul_(at::exp(lse - after).unsqueeze(-1));
    out.addcmul_(tokens_first(piece.out).to(out.scalar_type()),
                 at::exp(piece_lse - after).unsqueeze(-1));
    lse = after;
  }
}

void add_to(at::Tensor& sum, const at::Tensor& values, at::ScalarType type) {
  sum = sum.defined() ? sum.add_(values.to(type)) : values.to(type).contiguous();
}

void path_backward(const at::Tensor& q, const PathContext& path, bool fused,
                   const PieceResult& merged, const at::Tensor& grad, at::Tensor& dq) {
  for (const PathKvPtr& past : path.past) {
    const PieceInputs inputs = path_inputs(q, *past);
    const PieceGradients part =
        fused ? fused_backward(inputs, merged, grad) : plain_backward(inputs, merged, grad);
    dq.add_(tokens_first(part.q).to(dq.scalar_type()));
    add_to(past->dk, tokens_first(part.k), dq.scalar_type());
    add_to(past->dv, tokens_first(part.v), dq.scalar_type());
  }
}

struct TreeAttentionFunction : torch::autograd::Function<TreeAttentionFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q,
                            const at::Tensor& k, const at::Tensor& v,
                            const AttentionLayoutPtr& layout, const PathContextPtr& path) {
    const auto type = wide(q.scalar_type());
    at::Tensor out = at::zeros(q.sizes(), q.options().dtype(type));
    at::Tensor lse = at::zeros({q.size(0), q.size(1)}, q.options().dtype(type));
    const bool fused = use_fused(*layout, q);
    for (const GroupTensors& group : layout->groups) {
      const PieceInputs piece = piece_inputs(group, q, k, v);
      const PieceResult result = fused ? fused_forward(piece) : plain_forward(piece);
      merge(out, lse, group, scatter(result.out, group.query_slots, type),
            scatter(result.lse, group.query_slots, type));
    }
    if (path) {
      attend_to_path(q, *path, fused, out, lse);
      path->own->k = k.detach();
      path->own->v = v.detach();
      context->saved_data["path"] = c10::IValue::make_capsule(path);
    }
    out = out.to(q.scalar_type());
    context->save_for_backward({q, k, v, out, lse});
    context->saved_data["layout"] = c10::IValue::make_capsule(layout);
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse = saved[4];
    const auto layout = c10::static_intrusive_pointer_cast<AttentionLayout>(
        context->saved_data["layout"].toCapsule());
    const auto type = wide(q.scalar_type());
    const at::Tensor zero_row = at::zeros({1, q.size(1), q.size(2)}, q.options());
    const at::Tensor grad = at::cat({grads[0], zero_row});
    at::Tensor dq = at::zeros(q.sizes(), q.options().dtype(type));
    at::Tensor dk = at::zeros_like(dq), dv = at::zeros_like(dq);
    const bool fused = use_fused(*layout, q);
    for (const GroupTensors& group : layout->groups) {
      const PieceInputs piece = piece_inputs(group, q, k, v);
      const PieceResult merged = {gather(out, group.query_rows, group.batch, group.queries),
                                  gather(lse, group.query_rows, group.batch, group.queries)};
      const at::Tensor piece_grad = gather(grad, group.gradient_rows, group.batch, group.queries);
      const PieceGradients part = fused ? fused_backward(piece, merged, piece_grad)
                                        : plain_backward(piece, merged, piece_grad);
      accumulate(dq, group.query_tokens, scatter(part.q, group.query_slots, type));
      accumulate(dk, group.key_tokens, scatter(part.k, group.key_slots, type));
      accumulate(dv, group.key_tokens, scatter(part.v, group.key_slots, type));
    }
    if (const auto found = context->saved_data.find("path"); found != context->saved_data.end()) {
      const auto path = c10::static_intrusive_pointer_cast<PathContext>(found->second.toCapsule());
      path_backward(q, *path, fused, {heads_first(out), heads_first(lse)}, heads_first(grads[0]),
                    dq);
      if (path->own->dk.defined()) {
        dk.add_(path->own->dk);
        dv.add_(path->own->dv);
      }
    }
    const auto narrow = q.scalar_type();
    return {dq.to(narrow), dk.to(narrow), dv.to(narrow), at::Tensor(), at::Tensor()};
  }
};

at::Tensor index_tensor(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device);
}

GroupTensors group_tensors(const PieceGroup& group, int64_t tokens, at::Device device) {
  GroupTensors tensors;
  tensors.causal = group.causal;
  tensors.batch = group.batch;
  tensors.queries = group.queries;
  tensors.keys = group.keys;
  tensors.query_rows = index_tensor(group.query_rows, device);
  tensors.key_rows = index_tensor(group.key_rows, device);
  tensors.query_tokens = index_tensor(group.query_tokens, device);
  tensors.query_slots = index_tensor(group.query_slots, device);
  tensors.key_tokens = index_tensor(group.key_tokens, device);
  tensors.key_slots = index_tensor(group.key_slots, device);
  std::vector<int64_t> gradient_rows(group.query_rows.size(), tokens);
  for (size_t i = 0; i < group.query_slots.size(); ++i)
    gradient_rows[static_cast<size_t>(group.query_slots[i])] = group.query_tokens[i];
  tensors.gradient_rows = index_tensor(gradient_rows, device);
  if (!group.key_is_padding.empty()) {
    const std::vector<int64_t> padding(group.key_is_padding.begin(), group.key_is_padding.end());
    tensors.key_padding =
        index_tensor(padding, device).to(at::kBool).view({group.batch, 1, 1, group.keys});
  }
  return tensors;
}

}  // namespace

AttentionLayoutPtr make_layout(const AttentionPlan& plan, at::Device device,
                               AttentionKernels kernels) {
  auto layout = c10::make_intrusive<AttentionLayout>();
  layout->tokens = plan.tokens;
  layout->kernels = kernels;
  for (const PieceGroup& group : plan.groups)
    layout->groups.push_back(group_tensors(group, plan.tokens, device));
  return layout;
}

at::Tensor tree_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const AttentionLayoutPtr& layout, const PathContextPtr& path) {
  const int64_t repeat = q.size(1) / k.size(1);
  if (repeat == 1) return TreeAttentionFunction::apply(q, k, v, layout, path);
  return TreeAttentionFunction::apply(q, k.repeat_interleave(repeat, 1),
                                      v.repeat_interleave(repeat, 1), layout, path);
}

}  // namespace espalier::learner
