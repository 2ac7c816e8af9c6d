#include "learner/bench.h"

#include <ATen/ops/scaled_dot_product_attention.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

#include "common/error.h"
#include "common/rng.h"
#include "learner/micro_batch.h"
#include "learner/optimizer.h"
#include "learner/peak_memory.h"
#include "learner/trainable.h"
#include "policy/transformer.h"

namespace espalier::learner {
namespace {

/// Random trees of a given shape.
class TreeMaker {
 public:
  TreeMaker(const TreeShape& shape, uint64_t seed, int vocab_size)
      : shape_(shape), vocab_size_(vocab_size), rng_(common::derive_key(seed, "bench", "trees")) {}

  tree::Tree make() {
    tree::Tree tree;
    tree.task = "bench";
    tree.prompt_tokens = tokens(shape_.prompt_tokens);
    for (int root = 0; root < shape_.roots; ++root) grow(tree, -1, root, 0, {});
    return tree;
  }

 private:
  std::vector<tree::Token> tokens(int count) {
    std::vector<tree::Token> tokens;
    for (int i = 0; i < count; ++i)
      tokens.push_back(static_cast<tree::Token>(rng_.range(0, vocab_size_ - 1)));
    return tokens;
  }

  /// `delta`: the parent's observation, the same for all its children.
  void grow(tree::Tree& tree, int parent, int branch, int turn, std::vector<tree::Token> delta) {
    tree::Node node;
    node.parent = parent;
    node.branch = branch;
    node.turn = turn;
    node.prompt_delta = std::move(delta);
    node.action = tokens(shape_.action_tokens);
    node.loss_mask.assign(node.action.size(), 1);
    node.log_probs.assign(node.action.size(), -static_cast<float>(std::log(vocab_size_)));
    node.weight = 1;
    node.s_plus = rng_.uniform();
    node.s_minus = -rng_.uniform();
    const int index = static_cast<int>(tree.nodes.size());
    tree.nodes.push_back(std::move(node));
    if (turn + 1 >= shape_.turns) return;
    const std::vector<tree::Token> observation = tokens(shape_.observation_tokens);
    const int children = turn + 1 == shape_.turns / 2 ? std::max(1, shape_.branches) : 1;
    for (int child = 0; child < children; ++child) grow(tree, index, child, turn + 1, observation);
  }

  TreeShape shape_;
  int vocab_size_;
  common::Rng rng_;
};

double milliseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
  return spent.count();
}

/// Training steps on one batch.
class Stepper {
 public:
  Stepper(const policy::WeightsPtr& weights, const LearnerBench& bench)
      : trainable_(*weights, {.device = bench.device, .dtype = bench.dtype, .lora = {}}),
        optimizer_(trainable_.parameters()),
        loss_(make_loss({})) {}

  int vocab_size() const { return trainable_.for_pass().shape.vocab_size; }

  MicroBatch batch(const std::vector<tree::Tree>& trees, Packing packing, uint64_t& tokens) const {
    std::vector<const tree::Tree*> list;
    for (const tree::Tree& tree : trees) list.push_back(&tree);
    PackOptions options;
    options.packing = packing;
    options.max_tokens = int64_t{1} << 40;
    const std::vector<Packed> packed = pack(list, options);
    tokens = packed.at(0).tokens.size();
    const auto factors = aggregation_factors({"token-mean", trees.size()}, packed);
    return make_micro_batch(packed[0], factors[0], trainable_.for_pass());
  }

  /// With `dense` in place of the tree attention, where it is given.
  void pass(const MicroBatch& batch, const policy::Attention& dense = {}) {
    const policy::Weights weights = trainable_.for_pass();
    const EdgeDistribution edges =
        dense ? edge_distribution(
                    policy::forward_hidden(weights, batch.tokens, batch.positions, dense),
                    head(weights), batch.states, batch.targets)
              : forward(weights, batch);
    loss_->compute(loss_input(batch, edges)).loss.backward();
  }

  void optimize() {
    optimizer_.clip(1.0);
    optimizer_.step({}, 1e-6);
  }
  void drop_gradients() { optimizer_.zero_grad(); }

 private:
  static const at::Tensor& head(const policy::Weights& weights) {
    const bool tied = weights.shape.tie_word_embeddings;
    return weights.at(tied ? "model.embed_tokens.weight" : "lm_head.weight");
  }

  Trainable trainable_;
  AdamW optimizer_;
  std::unique_ptr<Loss> loss_;
};

std::vector<tree::Tree> make_trees(const TreeShape& shape, uint64_t seed, int vocab_size) {
  TreeMaker maker(shape, seed, vocab_size);
  std::vector<tree::Tree> trees;
  for (int i = 0; i < shape.trees; ++i) trees.push_back(maker.make());
  return trees;
}

void check(const LearnerBench& bench) {
  const TreeShape& shape = bench.shape;
  if (std::min({shape.trees, shape.roots, shape.turns, bench.repetitions, shape.prompt_tokens,
                shape.action_tokens}) < 1) {
    throw common::ConfigError(
        "bench learner: trees, roots, turns, repetitions, prompt and action tokens must each be at "
        "least 1");
  }
}

/// Least times of two kinds of work that take turns; the first round warms up.
std::pair<double, double> alternate(int repetitions, const std::function<void()>& a,
                                    const std::function<void()>& b) {
  std::pair<double, double> least;
  for (int i = 0; i <= repetitions; ++i) {
    const double of_a = milliseconds(a), of_b = milliseconds(b);
    least.first = i <= 1 ? of_a : std::min(least.first, of_a);
    least.second = i <= 1 ? of_b : std::min(least.second, of_b);
  }
  return least;
}

/// Equal sequences one behind the other, as a batch: one causal call.
policy::Attention dense_attention(int64_t sequences) {
  return [sequences](int, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    auto rows = [&](const at::Tensor& x) {
      return x.view({sequences, x.size(0) / sequences, x.size(1), x.size(2)}).transpose(1, 2);
    };
    const int64_t repeat = q.size(1) / k.size(1);
    auto repeated = [&](const at::Tensor& x) {
      return repeat == 1 ? x : x.repeat_interleave(repeat, 1);
    };
    const at::Tensor out =
        at::scaled_dot_product_attention(rows(q), rows(repeated(k)), rows(repeated(v)),
                                         std::nullopt, /*dropout_p=*/0.0, /*is_causal=*/true);
    return out.transpose(1, 2).reshape(q.sizes());
  };
}

}  // namespace

LearnerFigures bench_learner(const policy::WeightsPtr& weights, const LearnerBench& bench) {
  check(bench);
  Stepper stepper(weights, bench);
  const auto trees = make_trees(bench.shape, bench.seed, stepper.vocab_size());
  LearnerFigures figures;
  const MicroBatch packed = stepper.batch(trees, Packing::packed, figures.tokens_packed);
  const MicroBatch linear = stepper.batch(trees, Packing::linear, figures.tokens_linear);
  auto step = [&](const MicroBatch& batch) {
    return [&stepper, &batch] {
      stepper.pass(batch);
      stepper.optimize();
    };
  };
  std::tie(figures.packed_ms, figures.linear_ms) =
      alternate(bench.repetitions, step(packed), step(linear));
  auto peak = [&](const MicroBatch& batch) {
    return peak_bytes([&] {
      stepper.pass(batch);
      stepper.drop_gradients();
    });
  };
  figures.packed_peak_bytes = peak(packed);
  figures.linear_peak_bytes = peak(linear);
  return figures;
}

UnbranchedFigures bench_unbranched(const policy::WeightsPtr& weights, const LearnerBench& bench) {
  check(bench);
  LearnerBench plain = bench;
  plain.shape.trees = bench.shape.trees * bench.shape.roots;
  plain.shape.roots = plain.shape.branches = 1;
  Stepper stepper(weights, plain);
  const auto trees = make_trees(plain.shape, bench.seed, stepper.vocab_size());
  UnbranchedFigures figures;
  const MicroBatch batch = stepper.batch(trees, Packing::packed, figures.tokens);
  const policy::Attention dense = dense_attention(static_cast<int64_t>(trees.size()));
  std::tie(figures.packed_ms, figures.dense_ms) = alternate(
      bench.repetitions,
      [&] {
        stepper.pass(batch);
        stepper.optimize();
      },
      [&] {
        stepper.pass(batch, dense);
        stepper.optimize();
      });
  return figures;
}

}  // namespace espalier::learner
