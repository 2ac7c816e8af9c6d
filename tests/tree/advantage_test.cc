#include "tree/advantage.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "common/error.h"
#include "tree/estimator_reference.h"
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

using testing::Expected;
using testing::random_tree;
using testing::RandomTreeOptions;
using testing::Reference;

constexpr double kTolerance = 1e-12;

/// Two roots; r0 branches in two with rewards 1 and 0, r1 earns 0. Nodes: r0, b0, b1, r1.
Tree worked_example() {
  Tree tree;
  tree.nodes.resize(4);
  for (int i : {1, 2}) tree.nodes[i].parent = 0;
  tree.nodes[2].branch = tree.nodes[3].branch = 1;
  tree.nodes[1].reward = 1.0;
  tree.nodes[2].reward = 0.0;
  tree.nodes[3].reward = 0.0;
  return tree;
}

void expect_nodes(const Tree& tree, const std::vector<Expected>& expected) {
  ASSERT_EQ(tree.nodes.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(tree.nodes[i].value, expected[i].value, kTolerance) << i;
    EXPECT_NEAR(tree.nodes[i].advantage, expected[i].advantage, kTolerance) << i;
    EXPECT_NEAR(tree.nodes[i].weight, expected[i].weight, kTolerance) << i;
    EXPECT_NEAR(tree.nodes[i].s_plus, expected[i].s_plus, kTolerance) << i;
    EXPECT_NEAR(tree.nodes[i].s_minus, expected[i].s_minus, kTolerance) << i;
  }
}

TEST(Advantage, WorkedExampleOfTreeLoo) {
  Tree tree = worked_example();
  make_estimator("tree_loo", {})->estimate(tree);
  expect_nodes(tree, {{0.5, 0.5, 0.5, 0.25, 0},
                      {1, 1, 0.25, 0.25, 0},
                      {0, -1, 0.25, 0, -0.25},
                      {0, -0.5, 0.5, 0, -0.25}});
}

TEST(Advantage, WorkedExampleOfRloo) {
  Tree tree = worked_example();
  make_estimator("rloo", {})->estimate(tree);
  expect_nodes(tree, {{0.5, 0.25, 2.0 / 3, 1.0 / 3, -1.0 / 6},
                      {1, 1, 1.0 / 3, 1.0 / 3, 0},
                      {0, -0.5, 1.0 / 3, 0, -1.0 / 6},
                      {0, -0.5, 1.0 / 3, 0, -1.0 / 6}});
}

const double kRoot2 = std::sqrt(2.0), kRoot3 = std::sqrt(3.0), kThird = 1.0 / 3;

/// The examples of the estimators' headers. A of r0, b0, b1, r1; ε = 0.
void expect_example(const char* name, AdvantageOptions options, std::vector<double> advantages,
                    std::vector<double> weights) {
  options.epsilon = 0;
  Tree tree = worked_example();
  make_estimator(name, options)->estimate(tree);
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    EXPECT_NEAR(tree.nodes[i].advantage, advantages[i], kTolerance) << name << " " << i;
    EXPECT_NEAR(tree.nodes[i].weight, weights[i], kTolerance) << name << " " << i;
  }
}

TEST(Advantage, WorkedExampleOfDrGrpo) {
  Tree tree = worked_example();
  make_estimator("dr_grpo", {})->estimate(tree);
  expect_nodes(tree, {{0.5, 1.0 / 6, 2.0 / 3, 2.0 / 9, -1.0 / 9},
                      {1, 2.0 / 3, 1.0 / 3, 2.0 / 9, 0},
                      {0, -1.0 / 3, 1.0 / 3, 0, -1.0 / 9},
                      {0, -1.0 / 3, 1.0 / 3, 0, -1.0 / 9}});
}

TEST(Advantage, WorkedExampleOfGrpo) {
  Tree tree = worked_example();
  make_estimator("grpo", {.epsilon = 0})->estimate(tree);
  expect_nodes(tree, {{0.5, kRoot3 / 6, 2.0 / 3, kRoot3 * 2 / 9, -kRoot3 / 9},
                      {1, kRoot3 * 2 / 3, 1.0 / 3, kRoot3 * 2 / 9, 0},
                      {0, -kRoot3 / 3, 1.0 / 3, 0, -kRoot3 / 9},
                      {0, -kRoot3 / 3, 1.0 / 3, 0, -kRoot3 / 9}});
}

TEST(Advantage, WorkedExampleOfGiGpo) {
  Tree tree = worked_example();
  make_estimator("gigpo", {.sigma = "off"})->estimate(tree);
  expect_nodes(tree, {{0.5, 5.0 / 12, 2.0 / 3, 11.0 / 36, -1.0 / 36},
                      {1, 7.0 / 6, 1.0 / 3, 7.0 / 18, 0},
                      {0, -5.0 / 6, 1.0 / 3, 0, -5.0 / 18},
                      {0, -7.0 / 12, 1.0 / 3, 0, -7.0 / 36}});
}

TEST(Advantage, WorkedExamplesOfTheOthers) {
  const std::vector<double> once(4, kThird), linear = {2 * kThird, kThird, kThird, kThird};
  expect_example("shepherd", {}, {0.5, 0.5, -0.5, -0.5}, once);
  expect_example("tree_grpo", {},
                 {0.5 / kRoot3, 2 / kRoot3 + 1 / kRoot2, -1 / kRoot3 - 1 / kRoot2, -1 / kRoot3},
                 linear);
  expect_example("treerl", {}, {0.5 / kRoot2, 2 - 0.25 / kRoot2, -1 - 0.25 / kRoot2, -1}, linear);
  expect_example("treepo", {.sigma = "off"}, {0.1, 0.6, -0.4, -kThird}, linear);
  const double root = std::sqrt(633.0);
  expect_example("treepo", {}, {6.5 / root, 29 / root, -16 / root, -13 / root}, linear);
  expect_example("treerpo", {}, {0.25, 0.5, -0.5, -0.25}, once);
  expect_example("diff_parent", {}, {1.0 / 6, 0.5, -0.5, -kThird}, once);
  expect_example("node_value", {}, {0.5 / kRoot3, 2 / kRoot3, -1 / kRoot3, -1 / kRoot3}, once);
  expect_example("gae", {.lambda = 0.9}, {0.45, 1, 0, -0.5}, {0.5, 0.25, 0.25, 0.5});
}

TEST(Advantage, WorkedExampleOfReinforcePp) {
  std::vector<Tree> batch(2);
  for (size_t i = 0; i < 2; ++i) {
    batch[i].nodes.resize(1);
    batch[i].nodes[0].reward = i == 0 ? 1.0 : 0.0;
  }
  make_estimator("reinforce_pp", {.epsilon = 0})->estimate(batch);
  EXPECT_NEAR(batch[0].nodes[0].advantage, 0.5 * kRoot2, kTolerance);
  EXPECT_NEAR(batch[1].nodes[0].advantage, -0.5 * kRoot2, kTolerance);
  EXPECT_EQ(batch[0].nodes[0].weight, 1);
}

TEST(Advantage, WithoutForksTreeLooIsRlooBitForBit) {
  for (uint64_t number = 0; number < 3000; ++number) {
    RandomTreeOptions shape{.max_roots = 16, .fork_probability = 0};
    shape.binary_rewards = number % 2 == 0;
    Tree trees = random_tree(number, shape), leaves = trees;
    make_estimator("tree_loo", {})->estimate(trees);
    make_estimator("rloo", {})->estimate(leaves);
    for (size_t i = 0; i < trees.nodes.size(); ++i) {
      const Node &a = trees.nodes[i], &b = leaves.nodes[i];
      auto bits = [](double x) { return std::bit_cast<uint64_t>(x); };
      ASSERT_EQ(bits(a.value), bits(b.value));
      ASSERT_EQ(bits(a.advantage), bits(b.advantage));
      ASSERT_EQ(bits(a.weight), bits(b.weight));
      ASSERT_EQ(bits(a.s_plus), bits(b.s_plus));
      ASSERT_EQ(bits(a.s_minus), bits(b.s_minus));
    }
  }
}

TEST(Advantage, TreeLooWeightedAdvantagesOfAForkGroupSumToZero) {
  for (uint64_t number = 0; number < 300; ++number) {
    Tree tree = random_tree(number, {.binary_rewards = false});
    make_estimator("tree_loo", {})->estimate(tree);
    for (int parent = -1; parent < static_cast<int>(tree.nodes.size()); ++parent) {
      const std::vector<Tree> batch = {tree};
      const auto siblings = Reference(batch, 0, {}).children(parent);
      if (siblings.size() < 2) continue;
      double sum = 0;
      for (int node : siblings) sum += tree.nodes[node].s_plus + tree.nodes[node].s_minus;
      EXPECT_NEAR(sum, 0, 1e-12);
    }
  }
}

TEST(Advantage, EqualRewardsGiveExactlyZero) {
  for (const std::string& name : estimator_names()) {
    for (uint64_t number = 0; number < 200; ++number) {
      Tree tree = random_tree(number);
      for (Node& node : tree.nodes)
        if (node.reward) node.reward = 0.1;
      make_estimator(name, {.sigma = number % 2 == 0 ? "auto" : "off"})->estimate(tree);
      for (const Node& node : tree.nodes) {
        ASSERT_EQ(node.advantage, 0) << name;
        ASSERT_EQ(node.s_plus, 0) << name;
        ASSERT_EQ(node.s_minus, 0) << name;
      }
    }
  }
}

/// A leaf without a reward changes nothing for the others: the tree without its edge gives the
/// same.
TEST(Advantage, AFailedLeafIsAnEdgeLess) {
  for (const std::string& name : estimator_names()) {
    for (uint64_t number = 0; number < 300; ++number) {
      Tree tree = random_tree(number, {.failure_probability = 0.3});
      Tree pruned = tree;
      std::vector<int> place(tree.nodes.size(), -1);
      pruned.nodes.clear();
      const std::vector<Tree> batch = {tree};
      for (size_t i = 0; i < tree.nodes.size(); ++i) {
        if (Reference(batch, 0, {}).below(static_cast<int>(i)).empty()) continue;
        place[i] = static_cast<int>(pruned.nodes.size());
        pruned.nodes.push_back(tree.nodes[i]);
        if (tree.nodes[i].parent >= 0) pruned.nodes.back().parent = place[tree.nodes[i].parent];
      }
      make_estimator(name, {})->estimate(tree);
      make_estimator(name, {})->estimate(pruned);
      for (size_t i = 0; i < tree.nodes.size(); ++i) {
        const Node& node = tree.nodes[i];
        if (place[i] < 0) {
          ASSERT_EQ(node.weight, 0);
          ASSERT_EQ(node.advantage, 0);
          continue;
        }
        ASSERT_EQ(node.advantage, pruned.nodes[place[i]].advantage);
        ASSERT_EQ(node.weight, pruned.nodes[place[i]].weight);
        ASSERT_EQ(node.s_plus, pruned.nodes[place[i]].s_plus);
        ASSERT_EQ(node.s_minus, pruned.nodes[place[i]].s_minus);
      }
    }
  }
}

TEST(Advantage, UndefinedCases) {
  for (const std::string& name : estimator_names()) {
    for (const char* sigma : {"auto", "off"}) {
      const auto estimator = make_estimator(name, {.sigma = sigma});
      Tree empty;
      estimator->estimate(empty);

      Tree single;  // one root of two turns: nothing to compare with
      single.nodes.resize(2);
      single.nodes[1].parent = 0;
      single.nodes[1].reward = 1;
      estimator->estimate(single);
      for (const Node& node : single.nodes) {
        EXPECT_EQ(node.advantage, 0) << name;
        EXPECT_EQ(node.weight, 1) << name;
        EXPECT_EQ(node.value, 1) << name;
      }

      Tree failed = worked_example();
      for (Node& node : failed.nodes) node.reward.reset();
      failed.nodes[0].s_plus = 3;  // stale values are overwritten
      estimator->estimate(failed);
      for (const Node& node : failed.nodes) {
        EXPECT_EQ(node.advantage, 0) << name;
        EXPECT_EQ(node.weight, 0) << name;
        EXPECT_EQ(node.s_plus, 0) << name;
      }
    }
  }
}

/// Deterministic, and no estimate of an earlier pass matters.
TEST(Advantage, EstimatingAgainGivesTheSame) {
  for (const std::string& name : estimator_names()) {
    for (uint64_t number = 0; number < 50; ++number) {
      std::vector<Tree> batch = {random_tree(number), random_tree(number + 1000)};
      const auto estimator = make_estimator(name, {});
      estimator->estimate(batch);
      const std::vector<Tree> once = batch;
      estimator->estimate(batch);
      for (size_t t = 0; t < batch.size(); ++t)
        ASSERT_TRUE(testing::same_tree(batch[t], once[t])) << name;
    }
  }
}

TEST(Advantage, KappaShrinksTowardsTheRoots) {
  // At the branches k = 1: half of the sibling's value, half of the other root's.
  Tree tree = worked_example();
  tree.nodes[3].reward = 0.5;
  make_estimator("tree_loo", {.kappa = 1})->estimate(tree);
  EXPECT_NEAR(tree.nodes[1].advantage, 1 - (0.5 * 0 + 0.5 * 0.5), kTolerance);
  EXPECT_NEAR(tree.nodes[2].advantage, 0 - (0.5 * 1 + 0.5 * 0.5), kTolerance);
  EXPECT_NEAR(tree.nodes[0].advantage, 0, kTolerance) << "the roots' own is not shrunk";
}

TEST(Advantage, GammaDiscountsATurn) {
  Tree tree = worked_example();
  for (int i : {1, 2}) tree.nodes[i].turn = 1;
  make_estimator("tree_loo", {.gamma = 0.5})->estimate(tree);
  EXPECT_NEAR(tree.nodes[1].advantage, 1, kTolerance) << "nothing is to come";
  EXPECT_NEAR(tree.nodes[0].advantage, 0.25, kTolerance) << "one turn away: ½·½";
  EXPECT_NEAR(tree.nodes[0].value, 0.25, kTolerance);
}

std::string refusal(const std::string& name, const AdvantageOptions& options) {
  try {
    make_estimator(name, options);
  } catch (const common::ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(Advantage, SwitchesWithoutMeaningAreErrors) {
  EXPECT_EQ(refusal("treepo", {.baseline = "loo"}),
            "advantage estimator treepo: baseline = 'loo'; allowed: auto");
  EXPECT_EQ(refusal("tree_loo", {.value = "median"}),
            "advantage estimator tree_loo: value = 'median'; allowed: auto, hierarchical, leaf, "
            "entropy");
  EXPECT_NE(refusal("tree_loo", {.sigma = "parent"}), "");
  EXPECT_EQ(refusal("diff_parent", {.sigma = "parent"}), "");
  EXPECT_NE(refusal("rloo", {.kappa = 1}), "");
  EXPECT_EQ(refusal("tree_loo", {.kappa = 1}), "");
  EXPECT_NE(refusal("tree_loo", {.kappa = -1}), "");
  EXPECT_NE(refusal("tree_loo", {.gamma = 0}), "");
  EXPECT_NE(refusal("gae", {.lambda = 1.5}), "");
}

TEST(Advantage, UnknownNamesAreErrors) {
  const std::string message = refusal("treeloo", {});
  EXPECT_NE(message.find("treeloo"), std::string::npos);
  for (const std::string& name : estimator_names())
    EXPECT_NE(message.find(name), std::string::npos) << name;
}

TEST(Advantage, OnlyShepherdKeepsBranchesOutOfThePrefix) {
  for (const std::string& name : estimator_names()) {
    EXPECT_EQ(make_estimator(name, {})->credits_prefix(), name != "shepherd") << name;
    if (name == "gae" || name == "reinforce_pp") continue;
    // r0 branches; what its second branch earned does or does not show above the fork.
    Tree with = worked_example(), without = worked_example();
    with.nodes[2].reward = 1;
    make_estimator(name, {.sigma = "off"})->estimate(with);
    make_estimator(name, {.sigma = "off"})->estimate(without);
    EXPECT_EQ(with.nodes[0].advantage == without.nodes[0].advantage, name == "shepherd") << name;
  }
}

}  // namespace
}  // namespace espalier::tree
