// Rules that decide late: after an action was sampled, or when a tree's episodes are over.
#include <gtest/gtest.h>

#include <set>

#include "rollout/doubles.h"

namespace espalier::rollout {
namespace {

using testing::count_leaves;
using testing::FakePolicyOptions;
using testing::Stage;
using tree::Outcome;

/// A rule from two functions.
class LateRule : public tree::ForkRule {
 public:
  std::function<tree::LookBack(const tree::Tree&, int)> back;
  std::function<int(const tree::ForkContext&, std::span<const float>)> after;

  std::string name() const override { return "late"; }
  bool stopping_time() const override { return false; }
  bool exchangeable() const override { return false; }
  int decide(const tree::ForkContext&) override { return 1; }
  bool decides_after_sampling() const override { return after != nullptr; }
  int decide_sampled(const tree::ForkContext& context, std::span<const float> seen) override {
    return after(context, seen);
  }
  bool looks_back() const override { return back != nullptr; }
  tree::LookBack look_back(const tree::Tree& tree, int forks) const override {
    return back(tree, forks);
  }
  std::string save() const override { return ""; }
  void restore(const std::string&) override {}
};

int node_at(const tree::Tree& tree, const std::string& path) {
  for (size_t i = 0; i < tree.nodes.size(); ++i)
    if (tree.nodes[i].path == path) return static_cast<int>(i);
  return -1;
}

TEST(LookBackTest, AddsBranchesToAFinishedTree) {
  FakePolicyOptions policy;
  policy.commands = {"look", "quiet", "lines"};  // nobody wins, nobody exits
  Stage stage(policy);
  stage.task->max_turns = 4;
  stage.options.max_kept = 0;
  tree::Ledger ledger("generated_tokens", 0);
  stage.parts.ledger = &ledger;
  LateRule rule;
  std::atomic<int> calls{0};
  rule.back = [&](const tree::Tree& tree, int forks) {
    ++calls;
    EXPECT_EQ(forks, calls == 1 ? 0 : 1);
    for (int leaf : tree.leaves()) EXPECT_NE(tree.nodes[leaf].outcome, Outcome::none);
    tree::LookBack back;
    if (forks > 0) return back;
    back.forks.push_back({node_at(tree, "r1/t1"), 2, "win", "it would have won"});
    back.spend.selector_calls = 1;
    back.spend.selector_tokens = 70;
    return back;
  };
  stage.parts.rule = &rule;
  const auto trees = stage.run(1, 2);
  EXPECT_EQ(calls, 2);
  const tree::Tree& tree = trees.at(0);
  EXPECT_EQ(tree.leaves().size(), 4u);
  const int parent = node_at(tree, "r1/t1");
  EXPECT_EQ(tree.nodes[parent].fork_rule, "late");
  const auto children = tree.children()[parent];
  ASSERT_EQ(children.size(), 3u);
  const tree::Node &first = tree.nodes[children[0]], &injected = tree.nodes[children[1]],
                   &sampled = tree.nodes[children[2]];
  EXPECT_EQ(first.path, "r1/t2");
  EXPECT_EQ(injected.path, "r1/t2/b1");
  EXPECT_EQ(sampled.path, "r1/t2/b2");
  EXPECT_EQ(injected.command, "win");
  EXPECT_EQ(injected.observation, "win 3") << "two commands were run again before it";
  EXPECT_TRUE(injected.injected);
  EXPECT_EQ(injected.loss_mask, std::vector<uint8_t>(injected.action.size(), 0));
  EXPECT_EQ(injected.log_probs.size(), injected.action.size());
  EXPECT_FALSE(sampled.injected);
  EXPECT_EQ(sampled.loss_mask, std::vector<uint8_t>(sampled.action.size(), 1));
  for (const tree::Node* node : {&injected, &sampled}) {
    EXPECT_EQ(node->prompt_delta, first.prompt_delta);
    EXPECT_EQ(node->first_entropy, first.first_entropy);
    EXPECT_EQ(node->fork_origin, tree::ForkOrigin::value);
  }
  EXPECT_EQ(tree.nodes[node_at(tree, "r1/t2/b1/t3")].reward, 1.0) << "it goes on, and has won";
  const tree::Spend spent = ledger.total();
  EXPECT_EQ(spent.forks, 2u);
  EXPECT_EQ(spent.leaves, 4u);
  EXPECT_EQ(spent.selector_calls, 1u);
  EXPECT_EQ(spent.selector_tokens, 70u);
  EXPECT_EQ(stage.policy.participants(), 0u);
  EXPECT_EQ(stage.world->live, 0);
}

TEST(LookBackTest, ForksLiveAtTheNodesThatAreKept) {
  for (const size_t kept : {0, 1, 64}) {
    FakePolicyOptions policy;
    policy.commands = {"look", "quiet", "lines"};
    Stage stage(policy);
    stage.task->max_turns = 4;
    stage.options.max_kept = kept;
    stage.options.max_live = 2;
    LateRule rule;
    rule.back = [&](const tree::Tree& tree, int forks) {
      tree::LookBack back;
      if (forks > 0) return back;
      EXPECT_EQ(stage.world->live, static_cast<int>(std::min<size_t>(kept, 6)))
          << "of two episodes of four turns; there is nothing behind the last one";
      for (const char* path : {"r0/t0", "r0/t1", "r0/t2", "r1/t0", "r1/t1", "r1/t2"})
        back.forks.push_back({node_at(tree, path), 2, "", ""});
      return back;
    };
    stage.parts.rule = &rule;
    const tree::Tree tree = stage.run(1, 2).at(0);
    size_t live = 0;
    for (const tree::Node& node : tree.nodes) {
      live += node.fork_origin == tree::ForkOrigin::live ? 1 : 0;
      if (node.command == "look") {
        EXPECT_EQ(node.observation, "look " + std::to_string(node.turn + 1)) << node.path;
      }
    }
    EXPECT_EQ(live, 2 * std::min<size_t>(kept, 6));
    EXPECT_EQ(tree.leaves().size(), 14u);
    EXPECT_EQ(stage.world->live, 0);
    EXPECT_EQ(stage.policy.participants(), 0u);
  }
}

TEST(LookBackTest, AKeptEnvironmentThatCannotBeForkedLeavesTheBranchByValue) {
  FakePolicyOptions policy;
  policy.commands = {"look"};
  Stage stage(policy);
  stage.task->max_turns = 3;
  std::atomic<bool> broken{false};
  stage.world->fault = [&](const std::string& operation, const std::string&) {
    if (operation == "fork" && broken) throw common::SandboxError("it went away");
  };
  LateRule rule;
  rule.back = [&](const tree::Tree& tree, int forks) {
    broken = true;
    tree::LookBack back;
    if (forks == 0) back.forks.push_back({node_at(tree, "r0/t0"), 1, "", ""});
    return back;
  };
  stage.parts.rule = &rule;
  const tree::Tree tree = stage.run(1, 1).at(0);
  ASSERT_GE(node_at(tree, "r0/t1/b1"), 0);
  EXPECT_EQ(tree.nodes[node_at(tree, "r0/t1/b1")].fork_origin, tree::ForkOrigin::value);
  EXPECT_EQ(tree.nodes[node_at(tree, "r0/t1/b1")].observation, "look 2");
}

TEST(LookBackTest, TheSameSeedGivesTheSameTreesWhateverTheTiming) {
  for (const char* name : {"topk", "ucb", "pivot"}) {
    std::set<std::string> dumps;
    size_t live = 0;
    for (uint64_t delay_seed : {1, 2, 3}) {
      FakePolicyOptions policy;
      policy.delay_seed = delay_seed;
      policy.max_delay_us = 300;
      Stage stage(policy, delay_seed, 1500);
      const auto rule = tree::make_fork_rule(name, {.branches = 3, .max_forks_per_tree = 3});
      stage.parts.rule = rule.get();
      stage.options.workers = delay_seed == 3 ? 1 : 3;
      stage.options.max_live = 9;
      const auto trees = stage.run(5, 4);
      size_t branches = 0;
      for (const tree::Tree& tree : trees)
        for (const auto& children : tree.children()) branches += children.size() > 1 ? 1 : 0;
      for (const tree::Tree& tree : trees)
        for (const tree::Node& node : tree.nodes)
          live += node.fork_origin == tree::ForkOrigin::live ? 1 : 0;
      EXPECT_GT(branches, 0u) << name;
      EXPECT_EQ(stage.policy.participants(), 0u);
      dumps.insert(testing::dump(trees));
    }
    EXPECT_EQ(dumps.size(), 1u) << name;
    EXPECT_GT(live, 0u) << name;
  }
}

TEST(LookBackTest, NotWhenTheBudgetIsSpent) {
  Stage stage;
  tree::Ledger ledger("env_steps", 1);
  stage.parts.ledger = &ledger;
  LateRule rule;
  rule.back = [](const tree::Tree&, int) -> tree::LookBack {
    ADD_FAILURE() << "asked without a budget";
    return {};
  };
  stage.parts.rule = &rule;
  EXPECT_EQ(stage.run(1, 2).size(), 1u);
}

TEST(LookBackTest, BranchesThatWaitedWhileTheBudgetWasSpentDoNothing) {
  FakePolicyOptions policy;
  policy.commands = {"look"};
  Stage stage(policy);
  stage.task->max_turns = 4;
  stage.options.deterministic = true;
  tree::Ledger ledger("selector_tokens", 10);
  stage.parts.ledger = &ledger;
  LateRule rule;
  rule.back = [&](const tree::Tree& tree, int) {
    tree::LookBack back;
    back.spend.selector_tokens = 10;
    back.forks.push_back({node_at(tree, "r0/t1"), 1, "", ""});
    return back;
  };
  stage.parts.rule = &rule;
  const tree::Tree tree = stage.run(1, 1).at(0);
  EXPECT_EQ(count_leaves(tree, Outcome::cancelled), 1);
  EXPECT_EQ(tree.leaves().size(), 2u);
  EXPECT_EQ(ledger.total().selector_tokens, 10u);
}

TEST(SampledForkTest, SiblingsStartWhereTheSampledActionDid) {
  FakePolicyOptions policy;
  policy.commands = {"look", "quiet", "lines"};
  Stage stage(policy);
  stage.task->max_turns = 4;
  LateRule rule;
  rule.after = [](const tree::ForkContext& context, std::span<const float> entropies) {
    EXPECT_FALSE(entropies.empty());
    EXPECT_GT(context.turn, 0);
    return context.turn == 2 && context.forks_in_tree == 0 ? 3 : 1;
  };
  stage.parts.rule = &rule;
  const auto trees = stage.run(1, 2);
  const tree::Tree& tree = trees.at(0);
  EXPECT_EQ(tree.leaves().size(), 4u);
  int forks = 0;
  const auto all = tree.children();
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    if (all[i].size() < 2) continue;
    ++forks;
    EXPECT_EQ(tree.nodes[i].turn, 1);
    EXPECT_EQ(tree.nodes[i].fork_rule, "late");
    ASSERT_EQ(all[i].size(), 3u);
    for (size_t b = 0; b < 3; ++b) {
      const tree::Node& node = tree.nodes[all[i][b]];
      EXPECT_EQ(node.branch, static_cast<int>(b));
      EXPECT_EQ(node.prompt_delta, tree.nodes[all[i][0]].prompt_delta);
      EXPECT_EQ(node.first_entropy, tree.nodes[all[i][0]].first_entropy);
      if (node.command == "look") {
        EXPECT_EQ(node.observation, "look 3") << "from the same state";
      }
    }
  }
  EXPECT_EQ(forks, 1);
  EXPECT_EQ(stage.policy.participants(), 0u);
  EXPECT_EQ(stage.world->live, 0);
}

TEST(SampledForkTest, TheSameSeedGivesTheSameTreesWhateverTheTiming) {
  std::set<std::string> dumps;
  for (uint64_t delay_seed : {1, 2, 3}) {
    FakePolicyOptions policy;
    policy.delay_seed = delay_seed;
    policy.max_delay_us = 300;
    Stage stage(policy, delay_seed, 1500);
    LateRule rule;
    rule.after = [](const tree::ForkContext& context, std::span<const float>) {
      return context.forks_in_tree < 3 && common::uniform(context.key, 0) < 0.5 ? 2 : 1;
    };
    stage.parts.rule = &rule;
    stage.options.workers = delay_seed == 3 ? 1 : 3;
    dumps.insert(testing::dump(stage.run(4, 4)));
  }
  EXPECT_EQ(dumps.size(), 1u);
}

}  // namespace
}  // namespace espalier::rollout
