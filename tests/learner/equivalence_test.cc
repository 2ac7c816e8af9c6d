// Packed training is the linearised training: same log-probs, loss, gradients and weights; so is a
// walk, depth first, over trees above the token budget.
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include <numeric>

#include "learner/checkpointing.h"
#include "learner/learner.h"
#include "learner/loss.h"
#include "learner/micro_batch.h"
#include "learner/random_trees.h"
#include "learner/trainable.h"

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
  bool checkpointing = false;
  std::string dtype = "float32";
  common::LearnerConfig config;
};

/// Every term of the objective at once. Clipping ranges such that random ratios lie on both sides.
common::LearnerConfig config_of(const std::string& loss, const std::string& mode = "auto") {
  common::LearnerConfig config;
  config.loss = loss;
  config.loss_agg_mode = mode;
  config.entropy_coeff = 0.05;
  config.kl_loss_coef = 0.03;
  if (loss == "ppo_clip") config.clip_ratio_c = 1.5;
  if (loss == "gspo") config.clip_ratio_low = config.clip_ratio_high = 0.1;
  if (loss == "cispo") config.clip_ratio_high = 0.5;
  return config;
}

/// Loss and gradients over all trees. π_old and the reference are mixtures of now and then.
Pass run_pass(at::ScalarType type, const std::vector<tree::Tree>& trees,
              const PassOptions& options) {
  Trainable trainable(*test::small_model(type, false),
                      {.device = "cpu", .dtype = options.dtype, .lora = {}});
  const auto loss = make_loss(options.config);
  PackOptions pack_options;
  pack_options.packing = options.packing;
  pack_options.max_tokens = options.max_tokens;
  pack_options.with_paths = loss->needs_paths();
  const std::vector<Packed> batches = pack(pointers(trees), pack_options);
  const auto factors =
      aggregation_factors({loss->options().loss_agg_mode, trees.size(), 64}, batches);
  Pass pass;
  for (size_t i = 0; i < batches.size(); ++i) {
    const policy::Weights weights = trainable.for_pass();
    MicroBatch batch =
        make_micro_batch(batches[i], factors[i], weights, {.max_tokens = options.max_tokens});
    const LossOutput output = backward(
        weights, batch,
        [&](const EdgeDistribution& edges) {
          const at::Tensor now = edges.log_probs.detach();
          batch.old_log_probs = now * 0.7 + batch.rollout_log_probs * 0.3;
          batch.reference_log_probs = now * 0.4 + batch.rollout_log_probs * 0.6;
          for (size_t e = 0; e < batches[i].edges.size(); ++e) {
            pass.log_probs[batches[i].edges.rollout_log_prob[e]] =
                now[static_cast<int64_t>(e)].item<double>();
          }
          return loss->compute(loss_input(batch, edges));
        },
        options.checkpointing ? policy::LayerRunner(run_checkpointed) : policy::LayerRunner());
    pass.loss += output.loss.item<double>();
    for (const auto& [name, value] : output.sums) pass.sums[name] += value;
  }
  for (const auto& [name, tensor] : trainable.parameters()) pass.gradients[name] = tensor.grad();
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

/// Depth 1 – 6, branching 1 – 4.
std::vector<tree::Tree> random_trees(uint64_t seed, int count = 3,
                                     const std::string& estimator = "tree_loo") {
  test::RandomTreeOptions options;
  options.depth = static_cast<int>(1 + seed % 6);
  options.max_branching = static_cast<int>(1 + seed % 4);
  options.same_observation = seed % 2 == 0;
  std::vector<tree::Tree> trees = TreeMaker(seed, options).make(count);
  test::estimate(trees, estimator, seed);
  return trees;
}

/// Estimators that credit nodes against siblings, whole episodes, episodes within trees, and steps.
const char* const kEstimators[] = {"tree_loo", "grpo", "tree_grpo", "treerl", "diff_parent"};

class Equivalence : public ::testing::TestWithParam<std::string> {};

TEST_P(Equivalence, PackedEqualsLinearWhateverTheEstimator) {
  double clipped = 0;
  for (const char* estimator : kEstimators) {
    for (uint64_t seed = 1; seed < 7; ++seed) {
      SCOPED_TRACE(std::string(estimator) + " " + std::to_string(seed));
      const std::vector<tree::Tree> trees = random_trees(seed, 3, estimator);
      PassOptions packed, linear;
      packed.config = linear.config = config_of(GetParam());
      linear.packing = Packing::linear;
      const Pass a = run_pass(at::kDouble, trees, packed), b = run_pass(at::kDouble, trees, linear);
      expect_equal(a, b, 1e-10);
      EXPECT_GT(a.log_probs.size(), 0u);
      clipped += a.sums.at("clipfrac");
    }
  }
  if (GetParam() != "sapo" && GetParam() != "reinforce") {
    EXPECT_GT(clipped, 0);
  }
}

TEST_P(Equivalence, PackedEqualsLinearInFloat32) {
  for (uint64_t seed = 6; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    const std::vector<tree::Tree> trees = random_trees(seed);
    PassOptions packed, linear;
    packed.config = linear.config = config_of(GetParam());
    linear.packing = Packing::linear;
    expect_equal(run_pass(at::kFloat, trees, packed), run_pass(at::kFloat, trees, linear), 1e-5);
  }
}

TEST_P(Equivalence, MicroBatchesAndWalksDoNotChangeTheGradient) {
  for (uint64_t seed : {3, 11}) {
    SCOPED_TRACE(seed);
    const std::vector<tree::Tree> trees = random_trees(seed, 6);
    PassOptions whole, parts;
    whole.config = parts.config = config_of(GetParam());
    const Pass expected = run_pass(at::kDouble, trees, whole);
    for (int64_t budget : {70, 30, 8}) {  // below 70 most of the larger trees are walked
      parts.max_tokens = budget;
      expect_equal(run_pass(at::kDouble, trees, parts), expected, 1e-10);
    }
    whole.checkpointing = parts.checkpointing = true;
    expect_equal(run_pass(at::kDouble, trees, whole), expected, 1e-12);
    expect_equal(run_pass(at::kDouble, trees, parts), expected, 1e-10);
  }
}

/// ‖a − b‖ / ‖b‖ of all gradients together.
double gradient_error(const Pass& a, const Pass& b) {
  std::vector<at::Tensor> left, right;
  for (const auto& [name, gradient] : a.gradients) {
    left.push_back(gradient.flatten());
    right.push_back(b.gradients.at(name).flatten());
  }
  return relative_error(at::cat(left), at::cat(right));
}

TEST_P(Equivalence, BFloat16GradientsAreNear) {
  for (uint64_t seed = 1; seed < 7; ++seed) {
    const std::vector<tree::Tree> trees = random_trees(seed, 6);
    PassOptions packed, linear;
    packed.config = linear.config = config_of(GetParam());
    packed.dtype = linear.dtype = "bfloat16";
    linear.packing = Packing::linear;
    const Pass a = run_pass(at::kFloat, trees, packed);
    EXPECT_LE(gradient_error(a, run_pass(at::kFloat, trees, linear)), 0.025) << "seed " << seed;
    EXPECT_EQ(a.gradients.begin()->second.scalar_type(), at::kFloat) << "masters are float32";
    packed.max_tokens = 30;
    EXPECT_LE(gradient_error(run_pass(at::kFloat, trees, packed), a), 0.025) << "walk " << seed;
  }
}

policy::WeightsPtr three_steps(at::ScalarType type, const std::string& loss,
                               const std::string& packing, int max_tokens) {
  LearnerOptions options;
  options.device = "cpu";
  options.learner = config_of(loss);
  options.learner.packing = packing;
  options.learner.ppo_epochs = 2;
  options.learner.ppo_mini_batch_size = 2;
  options.learner.ppo_max_token_len_per_gpu = max_tokens;
  options.learner.optim.lr = 1e-3;
  // With the usual 1e-8 a gradient that is zero up to rounding moves its weight by the rate.
  options.learner.optim.eps = type == at::kDouble ? 1e-8 : 1e-3;
  options.learner.optim.lr_warmup_steps = 0;
  const auto start = test::small_model(type, false);
  Learner learner(start, options);
  learner.set_reference(test::small_model(type, false, 2));
  for (int step = 0; step < 3; ++step)
    learner.update(random_trees(static_cast<uint64_t>(step) + 3, 4), step);
  return learner.weights();
}

TEST_P(Equivalence, WeightsAfterThreeSteps) {
  for (at::ScalarType type : {at::kDouble, at::kFloat}) {
    const double tolerance = type == at::kDouble ? 1e-10 : 1e-5;
    const auto packed = three_steps(type, GetParam(), "packed", 1000),
               linear = three_steps(type, GetParam(), "linear", 1000),
               walked = three_steps(type, GetParam(), "packed", 30);
    const auto start = test::small_model(type, false);
    for (const auto& [name, tensor] : packed->tensors) {
      EXPECT_LE(relative_error(tensor, linear->at(name)), tolerance) << name;
      EXPECT_LE(relative_error(walked->at(name), tensor), tolerance) << name;
      EXPECT_GT(relative_error(tensor, start->at(name)), 1e-6) << name << " did not move";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Names, Equivalence, ::testing::ValuesIn(loss_names()),
                         [](const auto& info) { return info.param; });

TEST(EquivalenceOfModes, WhateverTheAggregation) {
  for (const std::string mode : {"seq-mean-token-sum", "token-mean", "token-sum",
                                 "seq-mean-token-mean", "seq-mean-token-sum-norm"}) {
    for (const std::string loss : {"ppo_clip", "gspo"}) {
      SCOPED_TRACE(mode + " " + loss);
      const std::vector<tree::Tree> trees = random_trees(11, 4, "tree_grpo");
      PassOptions packed, linear;
      packed.config = linear.config = config_of(loss, mode);
      linear.packing = Packing::linear;
      expect_equal(run_pass(at::kDouble, trees, packed), run_pass(at::kDouble, trees, linear),
                   1e-10);
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
