#include "tree/shaping.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

Node leaf(int parent, int branch, double reward, size_t tokens = 1) {
  Node node;
  node.parent = parent;
  node.branch = branch;
  node.action.assign(tokens, 1);
  node.reward = reward;
  return node;
}

/// r0 branches into two, r1 into two; rewards of the four leaves as given.
Tree two_forks(double a, double b, double c, double d) {
  Tree tree;
  tree.nodes = {Node(), leaf(0, 0, a), leaf(0, 1, b), Node(), leaf(3, 0, c), leaf(3, 1, d)};
  tree.nodes[3].branch = 1;
  return tree;
}

TEST(Overlong, GrowsOverItsBuffer) {
  const ShapingOptions options{.overlong_length = 100, .overlong_buffer = 20};
  EXPECT_EQ(overlong_reward(80, options), 0.0);
  EXPECT_EQ(overlong_reward(90, options), -0.5);
  EXPECT_EQ(overlong_reward(100, options), -1.0);
  EXPECT_EQ(overlong_reward(500, options), -1.0);
  EXPECT_EQ(overlong_reward(500, {}), 0.0) << "off";
  const ShapingOptions sudden{.overlong_length = 10, .overlong_penalty = 2};
  EXPECT_EQ(overlong_reward(10, sudden), 0.0);
  EXPECT_EQ(overlong_reward(11, sudden), -2.0);
}

TEST(Shaping, PenaltyMovesAdvantagesAndNotTheRecord) {
  Tree tree;
  tree.nodes = {leaf(-1, 0, 1.0, 5), leaf(-1, 1, 1.0, 20)};
  const auto estimator = make_estimator("tree_loo", {});
  const ShapingOptions options{.overlong_length = 20, .overlong_buffer = 10};
  const ShapingCounts counts = estimate_shaped(*estimator, std::span(&tree, 1), options);
  EXPECT_EQ(counts.leaves_penalised, 1);
  EXPECT_EQ(*tree.nodes[1].reward, 1.0);
  EXPECT_EQ(tree.nodes[0].advantage, 1.0);  // 1 against 0
  EXPECT_EQ(tree.nodes[1].advantage, -1.0);
}

TEST(Shaping, PromptsWithoutSpreadAreFilteredAsAWhole) {
  std::vector<Tree> trees = {two_forks(1, 1, 1, 1), two_forks(1, 1, 1, 0)};
  const auto estimator = make_estimator("tree_loo", {});
  EXPECT_EQ(estimate_shaped(*estimator, trees, {}).prompts_filtered, 0);
  EXPECT_FALSE(is_filtered(trees[0]));
  const ShapingCounts counts = estimate_shaped(*estimator, trees, {.filter_groups = "prompt"});
  EXPECT_EQ(counts.prompts_filtered, 1);
  EXPECT_TRUE(is_filtered(trees[0]));
  for (const Node& node : trees[1].nodes) EXPECT_FALSE(node.filtered);
}

TEST(Shaping, BranchingsWithoutSpreadAreFilteredOneByOne) {
  // r0's branches are worth the same, r1's are not; r0 and r1 differ.
  std::vector<Tree> trees = {two_forks(1, 1, 1, 0)};
  const auto estimator = make_estimator("tree_loo", {});
  const ShapingCounts counts = estimate_shaped(*estimator, trees, {.filter_groups = "fork"});
  EXPECT_EQ(counts.groups_filtered, 1);
  const bool expected[] = {false, true, true, false, false, false};
  for (size_t n = 0; n < 6; ++n) EXPECT_EQ(trees[0].nodes[n].filtered, expected[n]) << n;
  // An estimator that credits them with their episode's outcome keeps them.
  const auto whole_episodes = make_estimator("rloo", {});
  EXPECT_EQ(estimate_shaped(*whole_episodes, trees, {.filter_groups = "fork"}).groups_filtered, 1);
  for (const Node& node : trees[0].nodes) EXPECT_FALSE(node.filtered);
  EXPECT_THROW(estimate_shaped(*estimator, trees, {.filter_groups = "all"}), common::ConfigError);
}

/// Where all members of a branching but one are equal there is a spread, and who is worth the mean
/// stays.
TEST(Shaping, AMemberWorthTheMeanIsNoReasonToFilter) {
  Tree tree;
  tree.nodes = {leaf(-1, 0, 0.0), leaf(-1, 1, 0.5), leaf(-1, 2, 1.0)};
  const auto estimator = make_estimator("tree_loo", {});
  estimate_shaped(*estimator, std::span(&tree, 1), {.filter_groups = "fork"});
  EXPECT_EQ(tree.nodes[1].advantage, 0.0);
  EXPECT_FALSE(tree.nodes[1].filtered);
}

/// The credits of leaves add up to S⁺ and S⁻ for every estimator.
TEST(LeafCredits, AddUpToTheClippingSums) {
  for (const std::string& name : estimator_names()) {
    const auto estimator = make_estimator(name, {});
    for (uint64_t seed = 0; seed < 50; ++seed) {
      Tree tree = testing::random_tree(seed);
      estimator->estimate(tree);
      for (const Node& node : tree.nodes) {
        double plus = 0, minus = 0;
        for (double credit : node.leaf_credits) (credit > 0 ? plus : minus) += credit;
        EXPECT_NEAR(plus, node.s_plus, 1e-12) << name << " seed " << seed;
        EXPECT_NEAR(minus, node.s_minus, 1e-12) << name << " seed " << seed;
        EXPECT_EQ(node.leaf_credits.empty(), node.weight == 0) << name << " seed " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace espalier::tree
