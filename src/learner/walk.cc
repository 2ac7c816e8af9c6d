#include "learner/walk.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>

namespace espalier::learner {
namespace {

/// A unit that is being worked on, or that something below it is.
struct LiveUnit {
  int step = 0;
  std::vector<PathKvPtr> layers;
  at::Tensor value;  // Σ gradient · result of its edges; undefined without a graph
};

/// Computes one step behind the live units.
class Stack {
 public:
  Stack(const policy::Weights& weights, const policy::LayerRunner& run)
      : weights_(weights), run_(run) {}

  /// Ends the units that `parent` is not, deepest first.
  void unwind(int parent) {
    while (!live_.empty() && live_.back().step != parent) {
      if (live_.back().value.defined()) live_.back().value.backward();
      live_.pop_back();
    }
  }

  at::Tensor forward(int index, const WalkStep& step) {
    std::vector<PathContextPtr> contexts;
    LiveUnit unit;
    unit.step = index;
    for (int layer = 0; layer < weights_.shape.num_hidden_layers; ++layer) {
      auto context = c10::make_intrusive<PathContext>();
      context->own = c10::make_intrusive<PathKv>();
      for (const LiveUnit& above : live_)
        context->past.push_back(above.layers[static_cast<size_t>(layer)]);
      unit.layers.push_back(context->own);
      contexts.push_back(std::move(context));
    }
    live_.push_back(std::move(unit));
    return policy::forward_hidden(
        weights_, step.tokens, step.positions,
        [layout = step.layout, contexts](int layer, const at::Tensor& q, const at::Tensor& k,
                                         const at::Tensor& v) {
          return tree_attention(q, k, v, layout, contexts[static_cast<size_t>(layer)]);
        },
        run_);
  }

  LiveUnit& top() { return live_.back(); }

 private:
  const policy::Weights& weights_;
  const policy::LayerRunner& run_;
  std::vector<LiveUnit> live_;
};

const at::Tensor& head_of(const policy::Weights& weights) {
  const bool tied = weights.shape.tie_word_embeddings;
  return weights.at(tied ? "model.embed_tokens.weight" : "lm_head.weight");
}

}  // namespace

Walk make_walk(const std::vector<WalkUnit>& units, const Packed& packed, at::Device device) {
  auto indices = [&](const std::vector<int64_t>& values) {
    return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device);
  };
  auto part = [](const std::vector<int64_t>& values, const WalkUnit& unit) {
    return std::vector<int64_t>(values.begin() + unit.begin, values.begin() + unit.end);
  };
  std::vector<std::vector<int64_t>> edges(units.size());
  std::vector<size_t> unit_of(packed.tokens.size());
  for (size_t u = 0; u < units.size(); ++u)
    std::fill(unit_of.begin() + units[u].begin, unit_of.begin() + units[u].end, u);
  for (size_t e = 0; e < packed.edges.size(); ++e)
    edges[unit_of[static_cast<size_t>(packed.edges.state[e])]].push_back(static_cast<int64_t>(e));
  Walk walk;
  walk.edges = static_cast<int64_t>(packed.edges.size());
  for (size_t u = 0; u < units.size(); ++u) {
    const WalkUnit& unit = units[u];
    std::vector<int64_t> states, targets;
    for (int64_t e : edges[u]) {
      const size_t edge = static_cast<size_t>(e);
      states.push_back(packed.edges.state[edge] - unit.begin);
      targets.push_back(packed.tokens[static_cast<size_t>(packed.edges.target[edge])]);
    }
    WalkStep step;
    step.parent = unit.parent;
    step.tokens = indices(part(packed.tokens, unit));
    step.positions = indices(part(packed.positions, unit));
    step.layout = make_layout(plan_attention(unit.segments, unit.end - unit.begin), device);
    step.states = indices(states);
    step.targets = indices(targets);
    step.edges = indices(edges[u]);
    walk.steps.push_back(std::move(step));
  }
  return walk;
}

EdgeDistribution evaluate(const policy::Weights& weights, const Walk& walk) {
  const c10::AutoGradMode no_grad(false);
  const policy::LayerRunner plainly;
  Stack stack(weights, plainly);
  EdgeDistribution all;
  for (size_t i = 0; i < walk.steps.size(); ++i) {
    const WalkStep& step = walk.steps[i];
    stack.unwind(step.parent);
    const at::Tensor hidden = stack.forward(static_cast<int>(i), step);
    const EdgeDistribution edges =
        edge_distribution(hidden, head_of(weights), step.states, step.targets);
    if (!all.log_probs.defined()) {
      all.log_probs = at::empty({walk.edges}, edges.log_probs.options());
      all.entropies = at::empty({walk.edges}, edges.entropies.options());
    }
    all.log_probs.index_copy_(0, step.edges, edges.log_probs);
    all.entropies.index_copy_(0, step.edges, edges.entropies);
  }
  return all;
}

void backward(const policy::Weights& weights, const Walk& walk, const at::Tensor& of_log_probs,
              const at::Tensor& of_entropies, const policy::LayerRunner& run) {
  Stack stack(weights, run);
  for (size_t i = 0; i < walk.steps.size(); ++i) {
    const WalkStep& step = walk.steps[i];
    stack.unwind(step.parent);
    const at::Tensor hidden = stack.forward(static_cast<int>(i), step);
    at::Tensor value = hidden.sum() * 0.0;  // a unit without edges still passes its keys' gradient
    if (step.edges.size(0) > 0) {
      const EdgeDistribution edges =
          edge_distribution(hidden, head_of(weights), step.states, step.targets);
      value = (edges.log_probs * of_log_probs.index_select(0, step.edges)).sum();
      if (of_entropies.defined())
        value = value + (edges.entropies * of_entropies.index_select(0, step.edges)).sum();
    }
    stack.top().value = value;
  }
  stack.unwind(-1);
}

}  // namespace espalier::learner
