// Packed training is the linearised training: same log-probs, loss, gradients and weights.
#include <gtest/gtest.h>

#include <numeric>

#include "learner/learner.h"
#include "learner/loss.h"
#include "learner/micro_batch.h"
#include "learner/random_trees.h"

namespace espalier::learner {
namespace {

using test::pointers;
using test::relative_error;
using test::TreeMaker;

struct Pass {
  std::map<float, double> log_probs;  // by the edge's recorded log-prob, which is unique
  double loss = 0;
  std::map<std::string, double> sums;
  std::map<std::string, at::Tensor> gradients;
};

struct PassOptions {
  Packing packing = Packing::packed;
  int64_t max_tokens = 100000;
  common::LearnerConfig config;
};

/// Loss and gradients over all trees. π_old is a mixture of now and then, so that ratios lie on
/// both sides of the clipping range.
Pass run_pass(at::ScalarType type, const std::vector<tree::Tree>& trees,
              const PassOptions& options) {
  auto weights = test::small_model(type, true);
  PackOptions pack_options;
  pack_options.packing = options.packing;
  pack_options.max_tokens = options.max_tokens;
  const std::vector<Packed> batches = pack(pointers(trees), pack_options);
  const auto factors = aggregation_factors(options.config.loss_agg_mode, batches, trees.size());
  const auto loss = make_loss(options.config);
  Pass pass;
  for (size_t i = 0; i < batches.size(); ++i) {
    const MicroBatch batch = make_micro_batch(batches[i], factors[i], *weights);
    const EdgeDistribution edges = forward(*weights, batch);
    LossInput input;
    input.log_probs = edges.log_probs;
    input.old_log_probs = (edges.log_probs.detach() * 0.7 + batch.rollout_log_probs * 0.3);
    input.rollout_log_probs = batch.rollout_log_probs;
    input.s_plus = batch.s_plus;
    input.s_minus = batch.s_minus;
    input.entropies = edges.entropies;
    input.share = batch.share;
    input.weight = batch.weight;
    input.scale = batch.scale;
    const LossOutput output = loss->compute(input);
    pass.loss += output.loss.item<double>();
    for (const auto& [name, value] : output.sums) pass.sums[name] += value;
    output.loss.backward();
    for (size_t e = 0; e < batches[i].edges.size(); ++e) {
      pass.log_probs[batches[i].edges.rollout_log_prob[e]] =
          edges.log_probs[static_cast<int64_t>(e)].item<double>();
    }
  }
  for (const auto& [name, tensor] : weights->tensors) pass.gradients[name] = tensor.grad();
  return pass;
}

void expect_equal(const Pass& a, const Pass& b, double tolerance) {
  ASSERT_EQ(a.log_probs.size(), b.log_probs.size());
  for (const auto& [edge, log_prob] : a.log_probs)
    ASSERT_NEAR(log_prob, b.log_probs.at(edge), tolerance * std::abs(log_prob));
  EXPECT_NEAR(a.loss, b.loss, tolerance * std::max(1.0, std::abs(b.loss)));
  for (const auto& [name, value] : a.sums)
    EXPECT_NEAR(value, b.sums.at(name), tolerance * std::max(1.0, std::abs(value))) << name;
  for (const auto& [name, gradient] : a.gradients)
    EXPECT_LE(relative_error(gradient, b.gradients.at(name)), tolerance) << name;
}

std::vector<tree::Tree> random_trees(uint64_t seed, int count = 3) {
  test::RandomTreeOptions options;
  options.depth = static_cast<int>(1 + seed % 6);
  options.max_branching = static_cast<int>(1 + seed % 4);
  options.same_observation = seed % 2 == 0;
  return TreeMaker(seed, options).make(count);
}

class Equivalence : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  PassOptions options(Packing packing) const {
    PassOptions options;
    options.packing = packing;
    options.config.loss = std::get<0>(GetParam());
    options.config.loss_agg_mode = std::get<1>(GetParam());
    options.config.clip_ratio_c = 1.5;
    options.config.entropy_coeff = 0.05;
    return options;
  }
};

TEST_P(Equivalence, PackedEqualsLinearInFloat64) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    const std::vector<tree::Tree> trees = random_trees(seed);
    const Pass packed = run_pass(at::kDouble, trees, options(Packing::packed));
    const Pass linear = run_pass(at::kDouble, trees, options(Packing::linear));
    expect_equal(packed, linear, 1e-10);
    EXPECT_GT(packed.log_probs.size(), 0u);
  }
}

TEST_P(Equivalence, MicroBatchesDoNotChangeTheGradient) {
  PassOptions whole = options(Packing::packed), parts = whole;
  parts.max_tokens = 30;
  const std::vector<tree::Tree> trees = random_trees(6, 6);
  expect_equal(run_pass(at::kDouble, trees, parts), run_pass(at::kDouble, trees, whole), 1e-10);
}

INSTANTIATE_TEST_SUITE_P(Losses, Equivalence,
                         ::testing::Combine(::testing::Values("ppo_clip", "grpo"),
                                            ::testing::Values("seq-mean-token-sum", "token-mean",
                                                              "token-sum", "seq-mean-token-mean")),
                         [](const auto& info) {
                           std::string name =
                               std::get<0>(info.param) + "_" + std::get<1>(info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(EquivalenceFloat32, PackedEqualsLinear) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    const std::vector<tree::Tree> trees = random_trees(seed);
    PassOptions packed, linear;
    linear.packing = Packing::linear;
    expect_equal(run_pass(at::kFloat, trees, packed), run_pass(at::kFloat, trees, linear), 1e-5);
  }
}

policy::WeightsPtr three_steps(at::ScalarType type, const std::string& packing) {
  LearnerOptions options;
  options.device = "cpu";
  options.learner.packing = packing;
  options.learner.ppo_epochs = 2;
  options.learner.ppo_mini_batch_size = 2;
  options.learner.ppo_max_token_len_per_gpu = 60;
  options.learner.entropy_coeff = 0.01;
  options.learner.optim.lr = 1e-3;
  // With the usual 1e-8 a gradient that is zero up to rounding moves its weight by the rate.
  options.learner.optim.eps = type == at::kDouble ? 1e-8 : 1e-3;
  options.learner.optim.lr_warmup_steps = 0;
  Learner learner(test::small_model(type, false), options);
  for (int step = 0; step < 3; ++step)
    learner.update(random_trees(static_cast<uint64_t>(step) + 3, 4), step);
  return learner.weights();
}

TEST(EquivalenceOfWeights, AfterThreeSteps) {
  for (at::ScalarType type : {at::kDouble, at::kFloat}) {
    const auto packed = three_steps(type, "packed"), linear = three_steps(type, "linear");
    const auto start = test::small_model(type, false);
    for (const auto& [name, tensor] : packed->tensors) {
      EXPECT_LE(relative_error(tensor, linear->at(name)), type == at::kDouble ? 1e-10 : 1e-5)
          << name;
      EXPECT_GT(relative_error(tensor, start->at(name)), 1e-6) << name << " did not move";
    }
  }
}

/// Log-probs by the recorded log-prob of each edge.
std::map<float, double> log_probs_of(const tree::Tree& tree) {
  return run_pass(at::kDouble, {tree}, {}).log_probs;
}

TEST(Invariance, EditingASiblingChangesNobodyElse) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    test::RandomTreeOptions options;
    options.same_observation = true;
    tree::Tree tree = TreeMaker(seed, options).make();
    // A leaf with a sibling: its edit must leave all other nodes' log-probs alone.
    const std::vector<int> leaves = tree.leaves();
    const size_t leaf = static_cast<size_t>(leaves.back());
    const std::map<float, double> before = log_probs_of(tree);
    const std::vector<float> own = tree.nodes[leaf].log_probs;
    for (tree::Token& token : tree.nodes[leaf].action) token = (token + 1) % 23;
    const std::map<float, double> after = log_probs_of(tree);
    bool changed = false;
    for (const auto& [edge, log_prob] : before) {
      if (std::find(own.begin(), own.end(), edge) != own.end()) {
        changed |= after.at(edge) != log_prob;
      } else {
        EXPECT_NEAR(after.at(edge), log_prob, 1e-12 * std::abs(log_prob)) << "seed " << seed;
      }
    }
    const auto& mask = tree.nodes[leaf].loss_mask;
    if (std::accumulate(mask.begin(), mask.end(), 0) > 0) {
      EXPECT_TRUE(changed) << "seed " << seed;
    }
  }
}

TEST(Invariance, PermutingSiblingsChangesNothing) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    tree::Tree tree = TreeMaker(seed, {.depth = 4}).make(), mirrored = tree;
    for (tree::Node& node : mirrored.nodes) node.branch = 100 - node.branch;
    mirrored.canonicalise();
    const Pass a = run_pass(at::kDouble, {tree}, {}), b = run_pass(at::kDouble, {mirrored}, {});
    expect_equal(a, b, 1e-10);
  }
}

TEST(Invariance, TreesOfABatchDoNotSeeEachOther) {
  const std::vector<tree::Tree> trees = random_trees(5, 4);
  const Pass together = run_pass(at::kDouble, trees, {});
  for (const tree::Tree& tree : trees) {
    for (const auto& [edge, log_prob] : log_probs_of(tree))
      EXPECT_NEAR(together.log_probs.at(edge), log_prob, 1e-12 * std::abs(log_prob));
  }
}

}  // namespace
}  // namespace espalier::learner
