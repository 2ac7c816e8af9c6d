// What a farm makes when nothing fails: trees, forks, determinism, demonstrations, the journal.
#include "rollout/farm.h"

#include <gtest/gtest.h>

#include <set>

#include "rollout/doubles.h"

namespace espalier::rollout {
namespace {

using testing::FakePolicyOptions;
using testing::RuleDouble;
using testing::Stage;
using tree::Outcome;

std::unique_ptr<tree::ForkRule> uniform_rule(double probability, int branches, int max_forks) {
  tree::ForkRuleOptions options;
  options.probability = probability;
  options.branches = branches;
  options.max_forks_per_tree = max_forks;
  return tree::make_fork_rule("uniform", options);
}

/// Ids, paths, branch numbers and outcomes fit together.
void expect_sound(const tree::Tree& tree) {
  std::set<std::string> paths;
  const auto children = tree.children();
  EXPECT_EQ(tree.id, tree::prompt_id(tree));
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    const tree::Node& node = tree.nodes[i];
    const tree::NodeId& parent = node.parent < 0 ? tree.id : tree.nodes[node.parent].id;
    EXPECT_EQ(node.id, tree::node_id(parent, node)) << node.path;
    EXPECT_TRUE(paths.insert(node.path).second) << node.path;
    EXPECT_EQ(tree::parent_path(node.path), node.parent < 0 ? "" : tree.nodes[node.parent].path);
    EXPECT_EQ(node.log_probs.size(), node.action.size());
    EXPECT_EQ(node.entropies.size(), node.action.size());
    EXPECT_EQ(node.loss_mask, std::vector<uint8_t>(node.action.size(), 1));
    EXPECT_EQ(node.outcome == Outcome::none, !children[i].empty()) << node.path;
    EXPECT_EQ(node.reward.has_value(), node.outcome == Outcome::rewarded) << node.path;
    for (size_t b = 0; b < children[i].size(); ++b)
      EXPECT_EQ(tree.nodes[children[i][b]].branch, static_cast<int>(b));
    EXPECT_EQ(children[i].size() > 1, !node.fork_rule.empty()) << node.path;
    EXPECT_EQ(node.fork_origin != tree::ForkOrigin::none,
              node.parent >= 0 && children[node.parent].size() > 1);
  }
}

TEST(FarmTest, ARequestGivesATreeOfItsRoots) {
  Stage stage;
  const auto trees = stage.run(3, 4);
  ASSERT_EQ(trees.size(), 3u);
  for (size_t i = 0; i < trees.size(); ++i) {
    EXPECT_EQ(trees[i].index, i);
    EXPECT_EQ(trees[i].task, "fake");
    EXPECT_EQ(trees[i].family, "double");
    EXPECT_EQ(trees[i].prompt, "do it\n$ ");
    EXPECT_EQ(trees[i].roots().size(), 4u);
    expect_sound(trees[i]);
  }
  EXPECT_EQ(stage.policy.participants(), 0u);
  EXPECT_EQ(stage.world->live, 0);
}

TEST(FarmTest, ContextIsPromptObservationsAndActions) {
  Stage stage;
  const auto trees = stage.run(4, 4);
  for (const tree::Tree& tree : trees)
    for (int leaf : tree.leaves()) {
      std::string expected = "do it\n$ ";
      std::vector<int> path;
      for (int at = leaf; at >= 0; at = tree.nodes[at].parent) path.insert(path.begin(), at);
      for (int at : path) {
        expected += tree.nodes[at].command + "\n";
        if (at == leaf) break;
        const std::string& seen = tree.nodes[at].observation;
        expected += (seen.empty() ? "" : seen + "\n") + "$ ";
      }
      EXPECT_EQ(stage.tokenizer->decode(testing::path_tokens(tree, leaf)), expected);
    }
}

TEST(FarmTest, RewardIsTheVerifiersAndExitIsNotRun) {
  Stage stage;
  for (const tree::Tree& tree : stage.run(4, 4))
    for (int leaf : tree.leaves()) {
      bool won = false;
      for (int at = leaf; at >= 0; at = tree.nodes[at].parent)
        won |= tree.nodes[at].command == "win";
      ASSERT_TRUE(tree.nodes[leaf].reward);
      EXPECT_EQ(*tree.nodes[leaf].reward, won ? 1.0 : 0.0);
      EXPECT_TRUE(tree.nodes[leaf].command != "exit" || tree.nodes[leaf].observation.empty());
    }
}

TEST(FarmTest, TheSameSeedGivesTheSameTreesWhateverTheTiming) {
  std::set<std::string> dumps;
  for (uint64_t delay_seed : {1, 2, 3, 4}) {
    FakePolicyOptions policy;
    policy.delay_seed = delay_seed;
    policy.max_delay_us = 300;
    Stage stage(policy, delay_seed, 2000);
    auto rule = uniform_rule(0.4, 2, 3);
    tree::Ledger ledger("generated_tokens", 150);
    stage.parts.rule = rule.get();
    stage.parts.ledger = &ledger;
    stage.options.workers = delay_seed == 4 ? 1 : 3;
    stage.options.max_live = 9;  // waves of two trees
    dumps.insert(testing::dump(stage.run(5, 4)));
  }
  EXPECT_EQ(dumps.size(), 1u);
  EXPECT_NE(dumps.begin()->find("budget"), std::string::npos) << "the budget was to stop the run";
}

TEST(FarmTest, AnotherSeedOrPurposeGivesOtherTrees) {
  std::set<std::string> dumps;
  for (int variant = 0; variant < 3; ++variant) {
    Stage stage;
    if (variant == 1) stage.options.run_seed = 2;
    auto requests = stage.requests(1, 4);
    if (variant == 2) requests[0].purpose = "eval";
    dumps.insert(testing::dump(roll_out(*stage.make_farm(), std::move(requests))));
  }
  EXPECT_EQ(dumps.size(), 3u);
}

TEST(FarmTest, ForksBranchAtTurnBoundariesWithinTheTreesBudget) {
  FakePolicyOptions policy;
  policy.commands = {"look", "win", "quiet"};  // no episode ends early
  Stage stage(policy);
  auto rule = uniform_rule(1.0, 3, 2);
  tree::Ledger ledger("generated_tokens", 0);
  stage.parts.rule = rule.get();
  stage.parts.ledger = &ledger;
  const auto farm = stage.make_farm();
  const auto trees = roll_out(*farm, stage.requests(4, 4));
  uint64_t forks = 0, leaves = 0;
  for (const tree::Tree& tree : trees) {
    expect_sound(tree);
    int branchings = 0;
    for (const auto& below : tree.children()) {
      if (below.size() < 2) continue;
      ++branchings;
      EXPECT_EQ(below.size(), 3u);
      std::set<uint64_t> keys;
      for (int child : below) {
        keys.insert(tree.nodes[child].sampling_key);
        EXPECT_EQ(tree.nodes[child].first_entropy, tree.nodes[below[0]].first_entropy);
        EXPECT_EQ(tree.nodes[child].prompt_delta, tree.nodes[below[0]].prompt_delta);
        EXPECT_EQ(tree.nodes[child].fork_origin, tree::ForkOrigin::live);
      }
      EXPECT_EQ(keys.size(), 3u);
      forks += below.size() - 1;
    }
    EXPECT_EQ(branchings, 2);
    leaves += tree.leaves().size();
  }
  EXPECT_EQ(ledger.total().forks, forks);
  EXPECT_EQ(ledger.total().leaves, leaves);
  EXPECT_EQ(ledger.total().verifier_runs, leaves);
  EXPECT_EQ(farm->progress().forks, forks);
  EXPECT_EQ(farm->progress().fork_us, 7 * forks);
  EXPECT_EQ(farm->progress().episodes_ended, leaves);
  EXPECT_EQ(stage.policy.participants(), 0u);
}

TEST(FarmTest, ARuleSeesThePastOnly) {
  Stage stage;
  std::vector<tree::ForkContext> seen;
  RuleDouble rule([&](const tree::ForkContext& context) {
    seen.push_back(context);
    return context.turn == 2 ? 2 : 1;
  });
  stage.parts.rule = &rule;
  stage.run(1, 6);
  ASSERT_FALSE(seen.empty());
  for (const tree::ForkContext& context : seen) {
    EXPECT_GE(context.turn, 1);
    EXPECT_EQ(context.forks_on_path, context.turn <= 2 ? 0 : 1);
    EXPECT_TRUE(context.turn <= 2 || context.turns_since_fork == context.turn - 2);
    EXPECT_GT(context.first_entropy, 0);
  }
}

TEST(FarmTest, NoForksWhereTheRequestForbidsThem) {
  Stage stage;
  auto rule = uniform_rule(1.0, 2, 100);
  stage.parts.rule = rule.get();
  auto requests = stage.requests(2, 3);
  for (TreeRequest& request : requests) request.may_fork = false;
  for (const tree::Tree& tree : roll_out(*stage.make_farm(), std::move(requests)))
    EXPECT_EQ(tree.leaves().size(), 3u);
}

TEST(FarmTest, EveryContextTokenIsPrefilledOnceForAllBranches) {
  Stage stage;
  auto rule = uniform_rule(0.7, 2, 4);
  tree::Ledger ledger("generated_tokens", 0);
  stage.parts.rule = rule.get();
  stage.parts.ledger = &ledger;
  uint64_t distinct = 0, generated = 0;
  for (const tree::Tree& tree : stage.run(3, 4)) {
    distinct += tree.prompt_tokens.size();
    for (const auto& below : tree.children())
      if (!below.empty()) distinct += tree.nodes[below[0]].prompt_delta.size();
    for (const tree::Node& node : tree.nodes) generated += node.action.size();
  }
  EXPECT_EQ(ledger.total().prefill_tokens, distinct);
  EXPECT_EQ(ledger.total().generated_tokens, generated);
  EXPECT_GT(ledger.total().cached_prefill_tokens, 0u);
}

TEST(FarmTest, BranchesShareTheirRootsEpisodeKey) {
  Stage stage;
  auto rule = uniform_rule(1.0, 2, 4);
  stage.parts.rule = rule.get();
  const auto trees = stage.run(2, 3);
  std::set<std::string> keys;
  for (const auto& [key, commands] : stage.world->episode_keys) keys.insert(key);
  EXPECT_EQ(keys.size(), 6u);  // one a root episode
  EXPECT_EQ(stage.world->episode_keys.size(), trees[0].leaves().size() + trees[1].leaves().size());
}

TEST(FarmTest, DemonstrationsNeedNoPolicy) {
  Stage stage;
  stage.parts.policy = nullptr;
  auto requests = stage.requests(2, 2);
  for (TreeRequest& request : requests) {
    request.purpose = "sft";
    request.script = [](int root) {
      auto commands = std::make_shared<std::vector<std::string>>(
          std::vector<std::string>{"exit", root == 0 ? "win" : "look", "look"});
      return [commands] {
        const std::string command = commands->back();
        commands->pop_back();
        return command;
      };
    };
  }
  for (const tree::Tree& tree : roll_out(*stage.make_farm(), std::move(requests))) {
    ASSERT_EQ(tree.nodes.size(), 6u);
    expect_sound(tree);
    EXPECT_EQ(tree.nodes[0].command, "look");
    EXPECT_EQ(tree.nodes[0].log_probs[0], 0.0F);
    EXPECT_EQ(tree.nodes[2].reward, 1.0);
    EXPECT_EQ(tree.nodes[5].reward, 0.0);
    EXPECT_EQ(stage.tokenizer->decode(testing::path_tokens(tree, 2)),
              "do it\n$ look\nlook 1\n$ win\nwin 2\n$ exit\n");
  }
}

TEST(FarmTest, ThroughputModeKeepsToMaxLive) {
  FakePolicyOptions policy;
  policy.lockstep = false;
  Stage stage(policy, 5, 500);
  stage.options.max_live = 4;
  const auto trees = stage.run(10, 3);
  ASSERT_EQ(trees.size(), 10u);
  for (const tree::Tree& tree : trees) expect_sound(tree);
  EXPECT_LE(stage.world->most_live, 4);
  EXPECT_GE(stage.world->most_live, 2);
}

TEST(FarmTest, ThousandsLiveOnTwoThreads) {
  Stage stage({}, 1, 3000);
  stage.options.max_live = 2000;
  stage.task->max_turns = 3;
  const auto trees = stage.run(250, 8);
  EXPECT_EQ(trees.size(), 250u);
  EXPECT_EQ(stage.world->most_live, 2000);
  EXPECT_EQ(stage.policy.largest_round(), 2000u);
}

TEST(FarmTest, AFarmServesOneStartAfterTheOther) {
  Stage stage;
  const auto farm = stage.make_farm();
  TreeQueue first(10), second(10);
  farm->start(stage.requests(2, 2), first);
  farm->start(stage.requests(3, 2), second);
  farm->wait();
  EXPECT_EQ(first.size(), 2u);
  EXPECT_EQ(second.size(), 3u);
  EXPECT_EQ(roll_out(*farm, stage.requests(1, 1)).size(), 1u);
  EXPECT_TRUE(roll_out(*farm, {}).empty());
}

TEST(FarmTest, TheJournalGivesBackTheTrees) {
  Stage stage;
  auto rule = uniform_rule(0.5, 2, 4);
  stage.options.snapshots = KeepSnapshots::branching;
  stage.parts.rule = rule.get();
  tree::JournalWriter journal(stage.directory.path() / "journal", tree::Durability::none);
  stage.parts.journal = &journal;
  const auto trees = stage.run(4, 4);
  journal.flush();
  const auto recovered = tree::recover_trees(stage.directory.path() / "journal");
  ASSERT_EQ(recovered.size(), trees.size());
  bool snapshot = false;
  for (size_t i = 0; i < trees.size(); ++i) {
    EXPECT_TRUE(recovered[i].sealed);
    EXPECT_EQ(testing::dump(recovered[i].tree), testing::dump(trees[i]));
    for (const tree::Node& node : trees[i].nodes) {
      EXPECT_EQ(node.snapshot.empty(), node.fork_rule.empty());
      snapshot |= !node.snapshot.empty();
    }
  }
  EXPECT_TRUE(snapshot);
}

TEST(FarmTest, RefusesRequestsThatCannotBeRolledOut) {
  Stage stage;
  EXPECT_THROW(stage.run(1, 0), common::ConfigError);
  stage.parts.policy = nullptr;
  EXPECT_THROW(stage.run(1, 1), common::ConfigError);
}

}  // namespace
}  // namespace espalier::rollout
