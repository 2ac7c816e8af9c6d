// The worked examples of docs/extending.md, compiled from the page.
#include <gtest/gtest.h>

#include "tree/advantage.h"
#include "tree/fork_rule.h"
#include "tree/random_tree.h"

namespace espalier::tree {

std::unique_ptr<AdvantageEstimator> make_rank_loo(const AdvantageOptions& options);
std::unique_ptr<ForkRule> make_every_other_rule(const ForkRuleOptions& options);

namespace {

TEST(Extending, TheEstimatorOfThePageDoesWhatItsHeaderSays) {
  Tree tree;  // r0, its branches, r1
  tree.nodes.resize(4);
  for (int i : {1, 2}) tree.nodes[i].parent = 0;
  tree.nodes[2].branch = tree.nodes[3].branch = 1;
  tree.nodes[1].reward = 1.0;
  tree.nodes[2].reward = tree.nodes[3].reward = 0.0;
  const auto estimator = make_rank_loo({});
  EXPECT_EQ(estimator->name(), "rank_loo");
  estimator->estimate(tree);
  const double expected[] = {1, 1, -1, -1};
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(tree.nodes[i].advantage, expected[i]) << i;
  EXPECT_EQ(tree.nodes[1].weight, 0.25);
  Tree random = testing::random_tree(3);
  estimator->estimate(random);
}

TEST(Extending, TheRuleOfThePageForksEverySecondTurn) {
  const auto rule = make_every_other_rule({.branches = 3});
  ForkContext context;
  context.turns_since_fork = 100;
  int forks = 0;
  for (context.turn = 0; context.turn < 6; ++context.turn)
    forks += rule->decide(context) == 3 ? 1 : 0;
  EXPECT_EQ(forks, 2) << "turns 2 and 4";
  rule->restore(rule->save());
}

}  // namespace
}  // namespace espalier::tree
