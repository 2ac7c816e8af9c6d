#include "learner/micro_batch.h"

#include <ATen/ops/bincount.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include "common/error.h"
#include "policy/transformer.h"

namespace espalier::learner {
namespace {

void check_tokens(const std::vector<int64_t>& tokens, int vocab_size) {
  for (int64_t token : tokens) {
    if (token < 0 || token >= vocab_size) {
      throw common::PolicyError("learner: token " + std::to_string(token) +
                                " in a tree; allowed: 0 to " + std::to_string(vocab_size - 1) +
                                " (the model's vocabulary)");
    }
  }
}

}  // namespace

MicroBatch make_micro_batch(const Packed& packed, const std::vector<double>& scale,
                            const policy::Weights& weights, const MicroBatchOptions& options) {
  check_tokens(packed.tokens, weights.shape.vocab_size);
  const at::Tensor& embedding = weights.at("model.embed_tokens.weight");
  const at::Device device = embedding.device();
  const auto real = embedding.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto indices = [&](const std::vector<int64_t>& values) {
    return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device);
  };
  auto reals = [&](const auto& values) {
    const std::vector<double> wide(values.begin(), values.end());
    return at::tensor(wide, at::TensorOptions().dtype(at::kDouble)).to(device, real);
  };
  const int64_t tokens = static_cast<int64_t>(packed.tokens.size());
  MicroBatch batch;
  batch.tokens = indices(packed.tokens);
  batch.positions = indices(packed.positions);
  if (options.max_tokens > 0 && tokens > options.max_tokens && packed.segments.size() > 1) {
    batch.walk = make_walk(plan_walk(packed.segments, options.max_tokens), packed, device);
  } else {
    batch.layout = make_layout(plan_attention(packed.segments, tokens), device);
  }
  batch.states = indices(packed.edges.state);
  batch.targets = batch.tokens.index_select(0, indices(packed.edges.target));
  batch.rollout_log_probs = reals(packed.edges.rollout_log_prob);
  batch.s_plus = reals(packed.edges.s_plus);
  batch.s_minus = reals(packed.edges.s_minus);
  batch.share = reals(packed.edges.share);
  batch.weight = reals(packed.edges.weight);
  batch.scale = reals(scale);
  if (packed.paths.count > 0) {
    LossPaths& paths = batch.paths;
    paths.count = packed.paths.count;
    paths.edge = indices(packed.paths.edge);
    paths.path = indices(packed.paths.path);
    paths.credit = reals(packed.paths.credit);
    paths.share = reals(packed.paths.share);
    paths.lengths = at::bincount(paths.path, {}, paths.count).to(real);
  }
  return batch;
}

LossInput loss_input(const MicroBatch& batch, const EdgeDistribution& edges) {
  LossInput input;
  input.log_probs = edges.log_probs;
  input.old_log_probs =
      batch.old_log_probs.defined() ? batch.old_log_probs : edges.log_probs.detach();
  input.rollout_log_probs = batch.rollout_log_probs;
  input.reference_log_probs = batch.reference_log_probs;
  input.s_plus = batch.s_plus;
  input.s_minus = batch.s_minus;
  input.entropies = edges.entropies;
  input.share = batch.share;
  input.weight = batch.weight;
  input.scale = batch.scale;
  input.paths = batch.paths;
  return input;
}

EdgeDistribution forward(const policy::Weights& weights, const MicroBatch& batch,
                         const policy::LayerRunner& run) {
  const at::Tensor hidden = policy::forward_hidden(
      weights, batch.tokens, batch.positions,
      [&](int, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        return tree_attention(q, k, v, batch.layout);
      },
      run);
  const bool tied = weights.shape.tie_word_embeddings;
  return edge_distribution(hidden,
                           weights.at(tied ? "model.embed_tokens.weight" : "lm_head.weight"),
                           batch.states, batch.targets);
}

EdgeDistribution evaluate(const policy::Weights& weights, const MicroBatch& batch) {
  const c10::AutoGradMode no_grad(false);
  return batch.layout ? forward(weights, batch) : evaluate(weights, batch.walk);
}

LossOutput backward(const policy::Weights& weights, const MicroBatch& batch,
                    const std::function<LossOutput(const EdgeDistribution&)>& loss,
                    const policy::LayerRunner& run) {
  if (batch.layout) {
    LossOutput output = loss(forward(weights, batch, run));
    output.loss.backward();
    return output;
  }
  EdgeDistribution edges = evaluate(weights, batch.walk);
  edges.log_probs.requires_grad_(true);
  edges.entropies.requires_grad_(true);
  LossOutput output = loss(edges);
  output.loss.backward();
  backward(weights, batch.walk, edges.log_probs.grad(), edges.entropies.grad(), run);
  return output;
}

}  // namespace espalier::learner
