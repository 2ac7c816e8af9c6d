#include "tree/bench/estimator_bench.h"

#include <gtest/gtest.h>

#include <map>

#include "common/error.h"
#include "tree/advantage.h"
#include "tree/bench/simulate.h"

namespace espalier::tree {
namespace {

Mdp small(double noise) {
  common::Rng rng({11});
  return Mdp({.depth = 3, .states = 3, .actions = 2, .sparsity = 0.5, .noise = noise}, rng);
}

/// E[R] by walking every path, with one probability changed as a logit does it.
double expected_reward(const Mdp& mdp, int turn, int state, int at_turn, int at_state,
                       const std::vector<double>& policy) {
  if (turn == mdp.shape().depth) return mdp.reward(state);
  double sum = 0;
  for (int a = 0; a < mdp.shape().actions; ++a) {
    const bool changed = turn == at_turn && state == at_state;
    const double p = changed ? policy[a] : mdp.probability(turn, state, a);
    for (int next = 0; next < mdp.shape().states; ++next) {
      const double go = mdp.shape().noise / mdp.shape().states +
                        (next == mdp.intended(turn, state, a) ? 1 - mdp.shape().noise : 0);
      sum += p * go * expected_reward(mdp, turn + 1, next, at_turn, at_state, policy);
    }
  }
  return sum;
}

TEST(Mdp, ExactGradientIsThatOfTheExpectedReward) {
  const Mdp mdp = small(0.3);
  const Eigen::VectorXd gradient = mdp.exact_gradient();
  const double h = 1e-5;
  int row = 0;
  for (int t = 0; t < 3; ++t)
    for (int s = 0; s < 3; ++s)
      for (int a = 0; a < 2; ++a, ++row) {
        auto shifted = [&](double by) {
          std::vector<double> policy;
          double sum = 0;
          for (int b = 0; b < 2; ++b) {
            policy.push_back(mdp.probability(t, s, b) * std::exp(b == a ? by : 0));
            sum += policy.back();
          }
          for (double& p : policy) p /= sum;
          return expected_reward(mdp, 0, 0, t, s, policy);
        };
        EXPECT_NEAR(gradient[row], (shifted(h) - shifted(-h)) / (2 * h), 1e-9) << row;
      }
}

TEST(Simulate, GrowsTreesWithinTheRulesBudget) {
  const Mdp mdp = small(0.1);
  for (const char* name : {"none", "uniform", "sampled_entropy", "topk", "ucb", "pivot"}) {
    const auto rule = make_fork_rule(
        name, {.branches = 3, .max_forks_per_tree = 2, .quantile = 0.5, .probability = 0.9});
    common::Rng rng({5});
    int most = 0;
    for (int i = 0; i < 60; ++i) {
      const SimulatedTree grown = simulate_tree(mdp, 4, *rule, rng, "mdp/0");
      EXPECT_EQ(grown.steps, static_cast<int>(grown.tree.nodes.size()));
      EXPECT_EQ(grown.tree.roots().size(), 4u);
      int forks = 0;
      for (const auto& children : grown.tree.children()) {
        EXPECT_TRUE(children.size() < 2 || children.size() % 2 == 1) << name;
        forks += children.size() > 1 ? 1 : 0;
      }
      for (int leaf : grown.tree.leaves()) EXPECT_TRUE(grown.tree.nodes[leaf].reward) << name;
      EXPECT_LE(forks, 2) << name;
      most = std::max(most, forks);
    }
    EXPECT_EQ(most > 0, std::string(name) != "none") << name;
  }
}

TEST(EstimatorBench, TreeLooIsUnbiasedUnderStoppingTimesAndOthersAreNot) {
  EstimatorBench bench;
  bench.worlds = 3;
  bench.steps = 400;
  bench.estimators = {"rloo", "tree_loo", "tree_grpo", "shepherd"};
  bench.rules = {"none", "online_entropy", "pivot"};
  std::map<std::string, EstimatorFigures> figures;
  for (const EstimatorFigures& one : bench_estimators(bench))
    figures[one.estimator + " " + one.rule] = one;
  ASSERT_EQ(figures.size(), 12u);
  EXPECT_LT(figures["tree_loo online_entropy"].bias_low, 0.02);
  EXPECT_LT(figures["tree_loo online_entropy"].bias, 0.1);
  EXPECT_NEAR(figures["tree_loo online_entropy"].scale, 1, 0.15);
  EXPECT_NEAR(figures["rloo none"].snr, 1, 0.25) << "it is its own baseline, drawn again";
  EXPECT_GT(figures["tree_grpo online_entropy"].bias, figures["tree_loo online_entropy"].bias);
  EXPECT_GT(figures["tree_loo pivot"].bias, figures["tree_loo online_entropy"].bias);
  EXPECT_EQ(figures["tree_loo none"].steps_per_tree, figures["rloo none"].steps_per_tree);
  EXPECT_GT(figures["tree_loo online_entropy"].steps_per_tree,
            figures["tree_loo none"].steps_per_tree);
  const auto again = bench_estimators(bench);
  EXPECT_EQ(again.front().bias, figures[again.front().estimator + " " + again.front().rule].bias);
}

TEST(EstimatorBench, UnknownNamesAreErrors) {
  for (const char* spec : {"nope", "tree_loo:kappa", "tree_loo:kappa=", "tree_loo:kapa=2",
                           "tree_loo:kappa=2x", "rloo:kappa=2", "tree_loo:value=median"})
    EXPECT_THROW(bench_estimators({.worlds = 1, .steps = 2, .estimators = {spec}}),
                 common::ConfigError)
        << spec;
  EXPECT_EQ(bench_estimators({.worlds = 1,
                              .steps = 2,
                              .estimators = {"tree_loo:kappa=2:weight=linear"},
                              .rules = {"none"}})
                .front()
                .estimator,
            "tree_loo:kappa=2:weight=linear");
  EXPECT_THROW(bench_estimators({.worlds = 1, .rules = {"nope"}}), common::ConfigError);
}

}  // namespace
}  // namespace espalier::tree
