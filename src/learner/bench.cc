// Figures of `espalier bench learner`.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "common/error.h"
#include "common/rng.h"
#include "learner/learner.h"
#include "learner/micro_batch.h"
#include "policy/weights.h"

namespace espalier::learner {
namespace {

/// Random trees of a given shape: every root branches once, in the middle.
class TreeMaker {
 public:
  TreeMaker(const LearnerBench& bench, int vocab_size)
      : bench_(bench),
        vocab_size_(vocab_size),
        rng_(common::derive_key(bench.seed, "bench", "trees")) {}

  tree::Tree make() {
    tree::Tree tree;
    tree.task = "bench";
    tree.prompt_tokens = tokens(bench_.prompt_tokens);
    for (int root = 0; root < bench_.roots; ++root) grow(tree, -1, root, 0, {});
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
    node.action = tokens(bench_.action_tokens);
    node.loss_mask.assign(node.action.size(), 1);
    node.log_probs.assign(node.action.size(), -static_cast<float>(std::log(vocab_size_)));
    node.weight = 1;
    node.s_plus = rng_.uniform();
    node.s_minus = -rng_.uniform();
    const int index = static_cast<int>(tree.nodes.size());
    tree.nodes.push_back(std::move(node));
    if (turn + 1 >= bench_.turns) return;
    const std::vector<tree::Token> observation = tokens(bench_.observation_tokens);
    const int children = turn + 1 == bench_.turns / 2 ? std::max(1, bench_.branches) : 1;
    for (int child = 0; child < children; ++child) grow(tree, index, child, turn + 1, observation);
  }

  LearnerBench bench_;
  int vocab_size_;
  common::Rng rng_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// One forward and backward pass over all trees; milliseconds.
double timed_pass(policy::Weights& weights, const std::vector<Packed>& batches,
                  const std::vector<std::vector<double>>& factors) {
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < batches.size(); ++i) {
    const MicroBatch batch = make_micro_batch(batches[i], factors[i], weights);
    const EdgeDistribution edges = forward(weights, batch);
    const at::Tensor loss = -(edges.log_probs * batch.share * batch.scale).sum();
    loss.backward();
  }
  for (auto& [name, tensor] : weights.tensors) tensor.mutable_grad() = at::Tensor();
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
  return spent.count();
}

}  // namespace

LearnerFigures bench_learner(policy::WeightsPtr weights, const LearnerBench& bench) {
  if (bench.trees < 1 || bench.roots < 1 || bench.turns < 1 || bench.repetitions < 1 ||
      bench.prompt_tokens < 1 || bench.action_tokens < 1) {
    throw common::ConfigError(
        "bench learner: trees, roots, turns, repetitions, prompt and action tokens must each be at "
        "least 1");
  }
  auto copy = weights->clone();
  for (auto& [name, tensor] : copy->tensors) tensor.requires_grad_(true);
  TreeMaker maker(bench, copy->shape.vocab_size);
  std::vector<tree::Tree> trees;
  for (int i = 0; i < bench.trees; ++i) trees.push_back(maker.make());
  std::vector<const tree::Tree*> list;
  for (const tree::Tree& tree : trees) list.push_back(&tree);
  LearnerFigures figures;
  std::vector<double> packed_ms, linear_ms;
  for (Packing packing : {Packing::packed, Packing::linear}) {
    PackOptions options;
    options.packing = packing;
    const std::vector<Packed> batches = pack(list, options);
    const auto factors = aggregation_factors("token-mean", batches, trees.size());
    uint64_t tokens = 0;
    for (const Packed& batch : batches) tokens += batch.tokens.size();
    (packing == Packing::packed ? figures.tokens_packed : figures.tokens_linear) = tokens;
    std::vector<double>& times = packing == Packing::packed ? packed_ms : linear_ms;
    timed_pass(*copy, batches, factors);  // warms caches and the allocator
    for (int i = 0; i < bench.repetitions; ++i)
      times.push_back(timed_pass(*copy, batches, factors));
  }
  figures.packed_ms = median(packed_ms);
  figures.linear_ms = median(linear_ms);
  figures.packed_tokens_per_s =
      1e3 * static_cast<double>(figures.tokens_packed) / figures.packed_ms;
  return figures;
}

}  // namespace espalier::learner
