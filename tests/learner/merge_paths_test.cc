#include "learner/merge_paths.h"

#include <gtest/gtest.h>

#include <map>

#include "learner/learner.h"
#include "learner/micro_batch.h"
#include "learner/random_trees.h"

namespace espalier::learner {
namespace {

using test::pointers;
using test::relative_error;

/// Episodes that go along with one of few scripts for a while and then their own way; some of them
/// branch.
std::vector<tree::Tree> demonstrations(uint64_t seed, int count) {
  common::Rng rng(common::derive_key(seed, "test", "demonstrations"));
  auto tokens = [&](int64_t length) {
    std::vector<tree::Token> result(static_cast<size_t>(length));
    for (tree::Token& token : result) token = static_cast<tree::Token>(rng.range(0, 22));
    return result;
  };
  const std::vector<tree::Token> prompts[] = {tokens(40), tokens(20)}, script = tokens(30);
  std::vector<tree::Tree> trees;
  for (int i = 0; i < count; ++i) {
    tree::Tree tree;
    tree.task = "t";
    tree.prompt_tokens = prompts[i % 2];
    auto node = [&](int parent, int branch, std::vector<tree::Token> action) {
      tree::Node node;
      node.parent = parent;
      node.branch = branch;
      node.action = std::move(action);
      if (parent >= 0) node.prompt_delta = {1, 2, 3};
      for (size_t t = 0; t < node.action.size(); ++t) node.loss_mask.push_back(rng.uniform() < 0.8);
      return node;
    };
    tree.nodes.push_back(node(-1, 0, {script.begin(), script.begin() + rng.range(1, 30)}));
    tree.nodes.push_back(node(0, 0, tokens(rng.range(1, 9))));
    if (rng.uniform() < 0.4) tree.nodes.push_back(node(0, 1, tokens(rng.range(1, 9))));
    trees.push_back(tree);
    if (rng.uniform() < 0.3) trees.push_back(tree);  // the same one again
  }
  return trees;
}

/// Token-mean negative log-likelihood and its gradient.
std::pair<double, std::map<std::string, at::Tensor>> cloned(const std::vector<Packed>& batches,
                                                            size_t trees) {
  auto weights = test::small_model(at::kDouble, true);
  const auto factors = aggregation_factors({"token-mean", trees}, batches);
  double sum = 0;
  for (size_t i = 0; i < batches.size(); ++i) {
    const MicroBatch batch = make_micro_batch(batches[i], factors[i], *weights);
    const at::Tensor nll = -(forward(*weights, batch).log_probs * batch.share * batch.scale).sum();
    sum += nll.item<double>();
    nll.backward();
  }
  std::map<std::string, at::Tensor> gradients;
  for (const auto& [name, tensor] : weights->tensors) gradients[name] = tensor.grad();
  return {sum, gradients};
}

TEST(MergePaths, SameObjectiveWithFewerTokens) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const std::vector<tree::Tree> trees = demonstrations(seed, 12);
    PackOptions options;
    options.with_estimates = false;
    options.max_tokens = seed % 2 == 0 ? 100000 : 200;
    const std::vector<Packed> merged = pack_merged(pointers(trees), options);
    options.packing = Packing::linear;
    const std::vector<Packed> linear = pack(pointers(trees), options);
    auto count = [](const std::vector<Packed>& batches) {
      size_t tokens = 0;
      for (const Packed& batch : batches) tokens += batch.tokens.size();
      return tokens;
    };
    EXPECT_LT(2 * count(merged), count(linear));
    if (seed % 2 == 1) {
      EXPECT_GT(merged.size(), 1u);
    }
    for (const Packed& batch : merged) EXPECT_LE(batch.tokens.size(), 100000u);
    const auto [loss, gradients] = cloned(merged, trees.size());
    const auto [expected, of_linear] = cloned(linear, trees.size());
    EXPECT_NEAR(loss, expected, 1e-10 * expected);
    for (const auto& [name, gradient] : gradients)
      EXPECT_LE(relative_error(gradient, of_linear.at(name)), 1e-10) << name;
  }
}

TEST(MergePaths, EqualTrajectoriesAreOne) {
  tree::Tree tree = demonstrations(1, 1)[0];
  tree.nodes.resize(2);
  PackOptions options;
  options.with_estimates = false;
  const Packed once = pack_merged({&tree}, options).at(0);
  const Packed thrice = pack_merged({&tree, &tree, &tree}, options).at(0);
  EXPECT_LT(thrice.tokens.size(), once.tokens.size() + 2 * 16);
  double share = 0;
  for (double s : thrice.edges.share) share += s;
  EXPECT_NEAR(share, 3.0 * static_cast<double>(once.edges.size()), 1e-12);
}

TEST(MergePaths, TheWarmStartIsTheLinearOne) {
  auto trained = [](const std::string& packing) {
    LearnerOptions options;
    options.device = "cpu";
    options.learner.packing = packing;
    options.sft_steps = 3;
    Learner learner(test::small_model(at::kDouble, false), options);
    UpdateResult result;
    for (int step = 0; step < 3; ++step) {
      const auto trees = demonstrations(static_cast<uint64_t>(step), 8);
      result = learner.sft_update(pointers(trees), step);
    }
    return std::pair(learner.weights(), result);
  };
  const auto [packed, of_packed] = trained("packed");
  const auto [linear, of_linear] = trained("linear");
  EXPECT_LT(of_packed.tokens_packed, of_linear.tokens_packed);
  EXPECT_EQ(of_packed.tokens_linear, of_linear.tokens_linear);
  for (const auto& [name, tensor] : packed->tensors)
    EXPECT_LE(relative_error(tensor, linear->at(name)), 1e-10) << name;
}

}  // namespace
}  // namespace espalier::learner
