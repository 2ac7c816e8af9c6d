#include "tree/advantage.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "common/error.h"
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

using testing::random_tree;
using testing::RandomTreeOptions;

constexpr double kTolerance = 1e-12;

struct Expected {
  double value = 0, advantage = 0, weight = 0, s_plus = 0, s_minus = 0;
};

// References, written from the formulas over enumerated leaves. They walk up and never share the
// estimators' passes.

std::vector<int> valid_leaves(const Tree& tree) {
  std::vector<int> result;
  for (int leaf : tree.leaves())
    if (tree.nodes[leaf].reward) result.push_back(leaf);
  return result;
}

/// Whether `node` is `above` or lies below it.
bool below(const Tree& tree, int node, int above) {
  for (; node >= 0; node = tree.nodes[node].parent)
    if (node == above) return true;
  return false;
}

std::vector<int> leaves_below(const Tree& tree, int node) {
  std::vector<int> result;
  for (int leaf : valid_leaves(tree))
    if (below(tree, leaf, node)) result.push_back(leaf);
  return result;
}

std::vector<int> valid_children(const Tree& tree, int parent) {
  std::vector<int> result;
  for (size_t i = 0; i < tree.nodes.size(); ++i)
    if (tree.nodes[i].parent == parent && !leaves_below(tree, static_cast<int>(i)).empty())
      result.push_back(static_cast<int>(i));
  return result;
}

/// V_h(n) = Σ_{l∈L(n)} R_l · Π over nodes a from n to the parent of l of 1/|C(a)|.
double hierarchical_value(const Tree& tree, int node) {
  double value = 0;
  for (int leaf : leaves_below(tree, node)) {
    double share = 1;
    for (int a = leaf; a != node;) {
      a = tree.nodes[a].parent;
      share /= static_cast<double>(valid_children(tree, a).size());
    }
    value += share * *tree.nodes[leaf].reward;
  }
  return value;
}

Expected reference_tree_loo(const Tree& tree, int node) {
  Expected expected;
  if (leaves_below(tree, node).empty()) return expected;
  expected.value = hierarchical_value(tree, node);
  expected.weight = 1;
  for (int a = node; a >= 0; a = tree.nodes[a].parent)
    expected.weight /= static_cast<double>(valid_children(tree, tree.nodes[a].parent).size());
  for (int b = node; b >= 0; b = tree.nodes[b].parent) {
    const auto siblings = valid_children(tree, tree.nodes[b].parent);
    if (siblings.size() < 2) continue;
    double others = 0;
    for (int c : siblings)
      if (c != b) others += hierarchical_value(tree, c);
    expected.advantage =
        hierarchical_value(tree, b) - others / static_cast<double>(siblings.size() - 1);
    break;
  }
  expected.s_plus = std::max(expected.weight * expected.advantage, 0.0);
  expected.s_minus = std::min(expected.weight * expected.advantage, 0.0);
  return expected;
}

/// Advantage of leaf number `l` of `rewards`.
using LeafFormula = double (*)(const std::vector<double>& rewards, size_t l);

double average(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double rloo_formula(const std::vector<double>& rewards, size_t l) {
  if (rewards.size() < 2) return 0;
  double others = 0;
  for (size_t i = 0; i < rewards.size(); ++i)
    if (i != l) others += rewards[i];
  return rewards[l] - others / static_cast<double>(rewards.size() - 1);
}

double dr_grpo_formula(const std::vector<double>& rewards, size_t l) {
  return rewards[l] - average(rewards);
}

double grpo_formula(const std::vector<double>& rewards, size_t l) {
  if (rewards.size() < 2) return 0;
  double squares = 0;
  for (double reward : rewards) squares += std::pow(reward - average(rewards), 2);
  const double sigma = std::sqrt(squares / static_cast<double>(rewards.size() - 1));
  return (rewards[l] - average(rewards)) / (sigma + 1e-6);
}

Expected reference_leaf_only(const Tree& tree, int node, LeafFormula formula) {
  Expected expected;
  const auto leaves = valid_leaves(tree);
  std::vector<double> rewards;
  for (int leaf : leaves) rewards.push_back(*tree.nodes[leaf].reward);
  const double count = static_cast<double>(leaves.size());
  double under = 0;
  for (size_t l = 0; l < leaves.size(); ++l) {
    if (!below(tree, leaves[l], node)) continue;
    const double advantage = formula(rewards, l);
    (advantage > 0 ? expected.s_plus : expected.s_minus) += advantage / count;
    expected.advantage += advantage;
    expected.weight += 1 / count;
    ++under;
  }
  if (under == 0) return {};
  expected.advantage /= under;
  expected.value = hierarchical_value(tree, node);
  return expected;
}

template <class Reference>
void compare(const char* name, const AdvantageOptions& options, Reference reference) {
  const auto estimator = make_estimator(name, options);
  EXPECT_EQ(estimator->name(), name);
  for (uint64_t number = 0; number < 2000; ++number) {
    RandomTreeOptions shape{.max_depth = 4, .max_branches = 3};
    shape.binary_rewards = number % 2 == 0;
    shape.failure_probability = number % 3 == 0 ? 0.5 : 0.1;
    Tree tree = random_tree(number, shape);
    const Tree before = tree;
    estimator->estimate(tree);
    for (size_t i = 0; i < tree.nodes.size(); ++i) {
      const Node& node = tree.nodes[i];
      const Expected expected = reference(before, static_cast<int>(i));
      SCOPED_TRACE("tree " + std::to_string(number) + ", " + node.path);
      ASSERT_NEAR(node.value, expected.value, kTolerance);
      ASSERT_NEAR(node.advantage, expected.advantage, kTolerance);
      ASSERT_NEAR(node.weight, expected.weight, kTolerance);
      ASSERT_NEAR(node.s_plus, expected.s_plus, kTolerance);
      ASSERT_NEAR(node.s_minus, expected.s_minus, kTolerance);
    }
  }
}

TEST(Advantage, TreeLooMatchesTheFormula) { compare("tree_loo", {}, reference_tree_loo); }

TEST(Advantage, RlooMatchesTheFormula) {
  compare("rloo", {},
          [](const Tree& tree, int i) { return reference_leaf_only(tree, i, rloo_formula); });
}

TEST(Advantage, GrpoMatchesTheFormula) {
  compare("grpo", {.norm_adv_by_std = true},
          [](const Tree& tree, int i) { return reference_leaf_only(tree, i, grpo_formula); });
}

TEST(Advantage, GrpoWithoutSigmaMatchesTheFormula) {
  compare("grpo", {},
          [](const Tree& tree, int i) { return reference_leaf_only(tree, i, dr_grpo_formula); });
}

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

TEST(Advantage, WorkedExampleOfGrpo) {
  Tree tree = worked_example();
  make_estimator("grpo", {})->estimate(tree);
  expect_nodes(tree, {{0.5, 1.0 / 6, 2.0 / 3, 2.0 / 9, -1.0 / 9},
                      {1, 2.0 / 3, 1.0 / 3, 2.0 / 9, 0},
                      {0, -1.0 / 3, 1.0 / 3, 0, -1.0 / 9},
                      {0, -1.0 / 3, 1.0 / 3, 0, -1.0 / 9}});
  make_estimator("grpo", {.norm_adv_by_std = true, .epsilon = 0})->estimate(tree);
  const double root3 = std::sqrt(3.0);
  expect_nodes(tree, {{0.5, root3 / 6, 2.0 / 3, root3 * 2 / 9, -root3 / 9},
                      {1, root3 * 2 / 3, 1.0 / 3, root3 * 2 / 9, 0},
                      {0, -root3 / 3, 1.0 / 3, 0, -root3 / 9},
                      {0, -root3 / 3, 1.0 / 3, 0, -root3 / 9}});
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
      const auto siblings = valid_children(tree, parent);
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
      make_estimator(name, {.norm_adv_by_std = number % 2 == 0})->estimate(tree);
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
      for (size_t i = 0; i < tree.nodes.size(); ++i) {
        if (leaves_below(tree, static_cast<int>(i)).empty()) continue;
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
    for (bool normalise : {false, true}) {
      const auto estimator = make_estimator(name, {.norm_adv_by_std = normalise});
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

TEST(Advantage, SigmaSwitchDividesEveryEstimator) {
  for (const std::string& name : estimator_names()) {
    Tree plain = worked_example(), normalised = plain;
    make_estimator(name, {})->estimate(plain);
    make_estimator(name, {.norm_adv_by_std = true, .epsilon = 0})->estimate(normalised);
    for (size_t i = 0; i < plain.nodes.size(); ++i)
      EXPECT_NEAR(normalised.nodes[i].advantage, plain.nodes[i].advantage * std::sqrt(3.0), 1e-12);
  }
}

TEST(Advantage, UnknownNamesAreErrors) {
  EXPECT_EQ(estimator_names(), (std::vector<std::string>{"tree_loo", "rloo", "grpo"}));
  try {
    make_estimator("treeloo", {});
    FAIL();
  } catch (const common::ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("treeloo"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("tree_loo, rloo, grpo"), std::string::npos);
  }
  EXPECT_TRUE(make_estimator("tree_loo", {})->credits_prefix());
  EXPECT_FALSE(make_estimator("rloo", {})->credits_prefix());
}

}  // namespace
}  // namespace espalier::tree
