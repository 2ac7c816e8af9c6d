#include "learner/edge_head.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace espalier::learner {
namespace {

// Elements of the logits held at once: 16 MiB of float32.
constexpr int64_t kMaxChunkLogits = int64_t{4} << 20;

at::ScalarType wide(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

/// Calls visit(begin, rows) for consecutive chunks of `edges`.
template <class Visit>
void for_each_chunk(int64_t edges, int64_t vocab, Visit visit) {
  const int64_t rows = std::max<int64_t>(1, kMaxChunkLogits / vocab);
  for (int64_t begin = 0; begin < edges; begin += rows) visit(begin, std::min(rows, edges - begin));
}

struct EdgeHeadFunction : torch::autograd::Function<EdgeHeadFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                const at::Tensor& hidden, const at::Tensor& head,
                                                const at::Tensor& states,
                                                const at::Tensor& targets) {
    const auto options = hidden.options().dtype(wide(hidden.scalar_type()));
    const int64_t edges = states.size(0);
    at::Tensor log_probs = at::empty({edges}, options), entropies = at::empty({edges}, options);
    at::Tensor lse = at::empty({edges}, options);
    for_each_chunk(edges, head.size(0), [&](int64_t begin, int64_t rows) {
      const at::Tensor inputs = hidden.index_select(0, states.narrow(0, begin, rows));
      const at::Tensor logits = at::linear(inputs, head).to(options.dtype());
      const at::Tensor chunk_lse = at::logsumexp(logits, {-1});
      const at::Tensor chosen =
          logits.gather(1, targets.narrow(0, begin, rows).unsqueeze(1)).squeeze(1);
      log_probs.narrow(0, begin, rows).copy_(chosen - chunk_lse);
      lse.narrow(0, begin, rows).copy_(chunk_lse);
      // H = lse − Σ p·z
      const at::Tensor weighted = at::exp(logits - chunk_lse.unsqueeze(1)).mul_(logits);
      entropies.narrow(0, begin, rows).copy_(chunk_lse - weighted.sum({-1}));
    });
    context->save_for_backward({hidden, head, states, targets, lse, entropies});
    context->set_materialize_grads(false);
    return {log_probs, entropies};
  }

  /// ∂ log p_t / ∂z_j = [j = t] − p_j;   ∂H / ∂z_j = −p_j·(log p_j + H).
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &hidden = saved[0], &head = saved[1], &states = saved[2], &targets = saved[3];
    const at::Tensor &lse = saved[4], &entropies = saved[5];
    const auto type = wide(hidden.scalar_type());
    at::Tensor d_hidden = at::zeros(hidden.sizes(), hidden.options().dtype(type));
    at::Tensor d_head = at::zeros(head.sizes(), head.options().dtype(type));
    for_each_chunk(states.size(0), head.size(0), [&](int64_t begin, int64_t rows) {
      const at::Tensor rows_of = states.narrow(0, begin, rows);
      const at::Tensor inputs = hidden.index_select(0, rows_of);
      const at::Tensor log_p =
          at::linear(inputs, head).to(type).sub_(lse.narrow(0, begin, rows).unsqueeze(1));
      at::Tensor d_logits = at::exp(log_p);
      at::Tensor factor;  // of p
      if (grads[0].defined()) factor = -grads[0].narrow(0, begin, rows).unsqueeze(1);
      if (grads[1].defined()) {
        const at::Tensor of_entropy = log_p + entropies.narrow(0, begin, rows).unsqueeze(1);
        const at::Tensor term = -of_entropy * grads[1].narrow(0, begin, rows).unsqueeze(1);
        factor = factor.defined() ? factor + term : term;
      }
      d_logits.mul_(factor);
      if (grads[0].defined()) {
        d_logits.scatter_add_(1, targets.narrow(0, begin, rows).unsqueeze(1),
                              grads[0].narrow(0, begin, rows).unsqueeze(1));
      }
      d_hidden.index_add_(0, rows_of, at::matmul(d_logits, head.to(type)));
      d_head.addmm_(d_logits.t(), inputs.to(type));
    });
    return {d_hidden.to(hidden.scalar_type()), d_head.to(head.scalar_type()), at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

EdgeDistribution edge_distribution(const at::Tensor& hidden, const at::Tensor& head,
                                   const at::Tensor& states, const at::Tensor& targets) {
  const auto results = EdgeHeadFunction::apply(hidden, head, states, targets);
  return {results[0], results[1]};
}

}  // namespace espalier::learner
