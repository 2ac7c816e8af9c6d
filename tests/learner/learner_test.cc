#include "learner/learner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/error.h"
#include "common/files.h"
#include "learner/micro_batch.h"
#include "learner/random_trees.h"
#include "policy/device.h"
#include "policy/model_io.h"

namespace espalier::learner {
namespace {

using test::pointers;
using test::TreeMaker;

LearnerOptions cpu_options() {
  LearnerOptions options;
  options.device = "cpu";
  options.learner.optim.lr_warmup_steps = 0;
  return options;
}

std::vector<tree::Tree> random_trees(uint64_t seed, int count = 4) {
  return TreeMaker(seed, {.depth = 4, .same_observation = true}).make(count);
}

std::string digest_after(int steps, const LearnerOptions& options) {
  Learner learner(test::small_model(at::kFloat, false), options);
  for (int step = 0; step < steps; ++step)
    learner.update(random_trees(static_cast<uint64_t>(step)), step);
  return policy::digest(learner.weights());
}

TEST(Learner, SameTreesGiveTheSameWeightsBitForBit) {
  LearnerOptions options = cpu_options();
  options.learner.ppo_epochs = 2;
  options.learner.ppo_max_token_len_per_gpu = 100;
  EXPECT_EQ(digest_after(3, options), digest_after(3, options));
  EXPECT_NE(digest_after(3, options), digest_after(2, options));
}

TEST(Learner, TwoThreadsAreDeterministicToo) {
  policy::set_torch_threads(2);
  EXPECT_EQ(digest_after(1, cpu_options()), digest_after(1, cpu_options()));
  policy::set_torch_threads(1);
}

TEST(Learner, SavedOptimizerContinuesBitForBit) {
  const common::TempDir directory;
  const LearnerOptions options = cpu_options();
  Learner whole(test::small_model(at::kFloat, false), options);
  for (int step = 0; step < 2; ++step)
    whole.update(random_trees(static_cast<uint64_t>(step)), step);
  whole.optimizer_writer()(directory.path());
  Learner resumed(whole.weights(), options);
  resumed.load_optimizer(directory.path());
  Learner forgetful(whole.weights(), options);
  for (int step = 2; step < 4; ++step) {
    const auto trees = random_trees(static_cast<uint64_t>(step));
    for (Learner* learner : {&whole, &resumed, &forgetful}) learner->update(trees, step);
  }
  EXPECT_EQ(policy::digest(whole.weights()), policy::digest(resumed.weights()));
  EXPECT_NE(policy::digest(whole.weights()), policy::digest(forgetful.weights()));
}

TEST(Learner, ALossThatIsNoNumberChangesNothingAndIsNamed) {
  Learner learner(test::small_model(at::kFloat, false), cpu_options());
  EXPECT_EQ(learner.update(random_trees(1), 0).bad, "");
  const std::string before = policy::digest(learner.weights());
  auto trees = random_trees(2);
  for (tree::Tree& tree : trees)
    for (tree::Node& node : tree.nodes)
      for (float& log_prob : node.log_probs) log_prob = std::nanf("");
  const UpdateResult skipped = learner.update(trees, 1);
  EXPECT_EQ(skipped.bad, "model.embed_tokens.weight") << "the first by name";
  EXPECT_EQ(skipped.metrics.at("actor/skipped_updates"), 1);
  EXPECT_EQ(policy::digest(learner.weights()), before);
  EXPECT_EQ(learner.update(random_trees(3), 2).bad, "");
  EXPECT_NE(policy::digest(learner.weights()), before);
}

TEST(Learner, ResetForgetsTheOptimizer) {
  Learner used(test::small_model(at::kFloat, false), cpu_options());
  used.update(random_trees(1), 0);
  used.reset_optimizer();
  Learner fresh(used.weights(), cpu_options());
  for (Learner* learner : {&used, &fresh}) learner->update(random_trees(2), 1);
  EXPECT_EQ(policy::digest(used.weights()), policy::digest(fresh.weights()));
}

TEST(Learner, WeightsAreACopy) {
  Learner learner(test::small_model(at::kFloat, false), cpu_options());
  const policy::WeightsPtr before = learner.weights();
  const std::string digest = policy::digest(before);
  learner.update(random_trees(1), 0);
  EXPECT_EQ(policy::digest(before), digest);
  EXPECT_FALSE(before->at("model.norm.weight").requires_grad());
}

TEST(Learner, ReportsAgreementWithTheSampler) {
  std::vector<tree::Tree> trees = random_trees(5);
  const auto weights = test::small_model(at::kFloat, false);
  // Replace the recorded log-probs by the policy's own, in the order of the edges.
  for (tree::Tree& tree : trees) {
    const Packed packed = pack({&tree}, {}).at(0);
    const MicroBatch batch =
        make_micro_batch(packed, std::vector<double>(packed.edges.size(), 1.0), *weights);
    const at::Tensor log_probs = forward(*weights, batch).log_probs;
    int64_t edge = 0;
    for (tree::Node& node : tree.nodes) {
      for (size_t i = 0; i < node.action.size(); ++i) {
        if (node.loss_mask[i]) node.log_probs[i] = log_probs[edge++].item<float>();
      }
    }
    ASSERT_EQ(edge, log_probs.size(0));
  }
  Learner learner(weights, cpu_options());
  const UpdateResult exact = learner.update(trees, 0);
  EXPECT_LT(exact.metrics.at("training/rollout_probs_diff_mean"), 1e-6);
  EXPECT_GT(exact.metrics.at("training/rollout_actor_probs_pearson_corr"), 0.9999);
  EXPECT_EQ(exact.metrics.at("actor/ppo_kl"), 0.0) << "the first update's ratio is exactly 1";
  EXPECT_EQ(exact.metrics.at("actor/pg_clipfrac"), 0.0);
  EXPECT_EQ(exact.metrics.at("actor/skipped_updates"), 0.0);
  for (const char* name : {"actor/pg_loss", "actor/entropy", "actor/grad_norm", "actor/lr"})
    EXPECT_TRUE(exact.metrics.contains(name)) << name;
  uint64_t linear = 0;
  for (const tree::Tree& tree : trees) linear += linear_tokens(tree);
  EXPECT_EQ(exact.tokens_linear, linear);
  EXPECT_LT(exact.tokens_packed, linear);
  for (tree::Node& node : trees[0].nodes) {
    for (float& log_prob : node.log_probs) log_prob -= 1.0F;
  }
  EXPECT_GT(learner.update(trees, 1).metrics.at("training/rollout_probs_diff_mean"), 1e-3);
}

TEST(Learner, LaterUpdatesOfAStepMoveAwayFromTheOldPolicy) {
  LearnerOptions options = cpu_options();
  options.learner.ppo_epochs = 3;
  options.learner.optim.lr = 1e-2;
  Learner learner(test::small_model(at::kFloat, false), options);
  EXPECT_NE(learner.update(random_trees(5), 0).metrics.at("actor/ppo_kl"), 0.0);
}

TEST(Learner, AGradientThatIsNotFiniteIsSkipped) {
  std::vector<tree::Tree> trees = random_trees(5);
  for (tree::Node& node : trees[1].nodes) node.s_plus = std::numeric_limits<double>::infinity();
  Learner learner(test::small_model(at::kFloat, false), cpu_options());
  const std::string before = policy::digest(learner.weights());
  EXPECT_EQ(learner.update(trees, 0).metrics.at("actor/skipped_updates"), 1.0);
  EXPECT_EQ(policy::digest(learner.weights()), before);
}

TEST(Learner, RaisesWhatIsRewarded) {
  std::vector<tree::Tree> trees = random_trees(9, 2);
  double sign = 1;
  for (tree::Tree& tree : trees) {
    for (tree::Node& node : tree.nodes) {
      node.s_plus = sign > 0 ? 1.0 : 0.0;
      node.s_minus = sign > 0 ? 0.0 : -1.0;
    }
    sign = -sign;
  }
  LearnerOptions options = cpu_options();
  options.learner.optim.lr = 1e-2;
  options.learner.rollout_is_threshold = 0;
  const auto start = test::small_model(at::kFloat, false);
  Learner learner(start, options);
  for (int step = 0; step < 5; ++step) learner.update(trees, step);
  auto mean_log_prob = [&](const policy::Weights& weights, const tree::Tree& tree) {
    const Packed packed = pack({&tree}, {}).at(0);
    const auto batch =
        make_micro_batch(packed, std::vector<double>(packed.edges.size(), 1.0), weights);
    return forward(weights, batch).log_probs.mean().item<double>();
  };
  EXPECT_GT(mean_log_prob(*learner.weights(), trees[0]), mean_log_prob(*start, trees[0]));
  EXPECT_LT(mean_log_prob(*learner.weights(), trees[1]), mean_log_prob(*start, trees[1]));
}

TEST(Learner, RefusesTokensOutsideTheVocabulary) {
  std::vector<tree::Tree> trees = random_trees(5);
  trees[0].nodes[0].action[0] = 23;
  Learner learner(test::small_model(at::kFloat, false), cpu_options());
  EXPECT_THROW(learner.update(trees, 0), common::PolicyError);
}

TEST(Learner, RefusesUnknownSettings) {
  LearnerOptions options = cpu_options();
  options.learner.loss = "nothing";
  EXPECT_THROW(Learner(test::small_model(at::kFloat, false), options), common::ConfigError);
  options = cpu_options();
  options.learner.packing = "dense";
  Learner learner(test::small_model(at::kFloat, false), options);
  EXPECT_THROW(learner.update(random_trees(1), 0), common::ConfigError);
}

/// "x y" → "y": the answer is the prompt's last token.
tree::Tree copy_task(common::Rng& rng, int vocab_size) {
  tree::Tree tree;
  tree.task = "copy";
  for (int i = 0; i < 4; ++i)
    tree.prompt_tokens.push_back(static_cast<tree::Token>(rng.range(1, vocab_size - 1)));
  tree::Node node;
  node.action = {tree.prompt_tokens[3], 0};
  node.loss_mask = {1, 1};
  tree.nodes.push_back(node);
  return tree;
}

TEST(Learner, BehaviourCloningLearnsToCopy) {
  LearnerOptions options = cpu_options();
  options.sft_optim.lr = 2e-2;
  options.sft_optim.lr_warmup_steps = 10;
  options.sft_steps = 200;
  Learner learner(test::small_model(at::kFloat, false), options);
  common::Rng rng(common::derive_key(3, "test", "copy"));
  double first = 0, last = 0;
  for (int step = 0; step < options.sft_steps; ++step) {
    std::vector<tree::Tree> trees;
    for (int i = 0; i < 16; ++i) trees.push_back(copy_task(rng, 23));
    const UpdateResult result = learner.sft_update(pointers(trees), step);
    last = result.metrics.at("sft/loss");
    if (step == 0) first = last;
    ASSERT_TRUE(result.metrics.contains("sft/lr") && result.metrics.contains("sft/grad_norm"));
  }
  EXPECT_GT(first, 1.0);
  EXPECT_LT(last, 0.1 * first);
}

}  // namespace
}  // namespace espalier::learner
