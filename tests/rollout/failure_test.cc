// Failure is data: what an episode ends as when something breaks, runs out or is stopped.
#include <gtest/gtest.h>

#include <set>

#include "rollout/doubles.h"

namespace espalier::rollout {
namespace {

using common::NotForkable;
using common::SandboxError;
using testing::count_leaves;
using testing::FakePolicyOptions;
using testing::RuleDouble;
using testing::Stage;
using tree::Outcome;

const tree::Node& only_leaf(const std::vector<tree::Tree>& trees) {
  EXPECT_EQ(trees.size(), 1u);
  EXPECT_EQ(trees[0].leaves().size(), 1u);
  return trees[0].nodes[trees[0].leaves().at(0)];
}

FakePolicyOptions always(const std::string& command) {
  FakePolicyOptions options;
  options.commands = {command};
  return options;
}

/// Throws the first `times` times that `operation` (on `detail`, unless empty) is called.
std::function<void(const std::string&, const std::string&)> fail_first(const std::string& operation,
                                                                       const std::string& detail,
                                                                       int times) {
  auto left = std::make_shared<int>(times);
  return [=](const std::string& seen, const std::string& with) {
    if (seen != operation || (!detail.empty() && with != detail)) return;
    if ((*left)-- > 0) throw SandboxError("injected: " + operation);
  };
}

TEST(FailureTest, ARetriedFailureLeavesNoTraceInTheTree) {
  const std::string expected = testing::dump(Stage().run(2, 4));
  for (const char* operation : {"create", "run", "exec"}) {
    Stage stage;
    tree::Ledger ledger("generated_tokens", 0);
    stage.parts.ledger = &ledger;
    stage.world->fault = fail_first(operation, "", 2);
    EXPECT_EQ(testing::dump(stage.run(2, 4)), expected) << operation;
    EXPECT_EQ(ledger.total().infra_failures, 2u);
    EXPECT_EQ(stage.world->live, 0);
  }
}

TEST(FailureTest, RetriesThatRunOutCostOneEdge) {
  Stage stage;
  stage.world->fault = fail_first("run", "win", 1 << 30);
  stage.options.infra_retries = 1;
  tree::Ledger ledger("generated_tokens", 0);
  stage.parts.ledger = &ledger;
  int failed = 0, fine = 0;
  for (const tree::Tree& tree : stage.run(3, 4)) {
    EXPECT_EQ(tree.roots().size(), 4u);
    for (int leaf : tree.leaves()) {
      const tree::Node& node = tree.nodes[leaf];
      if (node.command == "win") {
        EXPECT_EQ(node.outcome, Outcome::infra_failed);
        EXPECT_FALSE(node.reward);
        EXPECT_EQ(node.failure, "run a command: injected: run");
        ++failed;
      } else {
        EXPECT_EQ(node.outcome, Outcome::rewarded);
        ++fine;
      }
    }
  }
  EXPECT_GT(failed, 0);
  EXPECT_GT(fine, 0);
  EXPECT_EQ(ledger.total().infra_failures, 2u * failed);
}

TEST(FailureTest, AnEnvironmentThatNeverOpensIsALeafWithoutAnAction) {
  Stage stage;
  stage.world->fault = fail_first("create", "", 1 << 30);
  const auto trees = stage.run(1, 1);
  const tree::Node& leaf = only_leaf(trees);
  EXPECT_EQ(leaf.outcome, Outcome::infra_failed);
  EXPECT_TRUE(leaf.action.empty());
  EXPECT_EQ(leaf.path, "r0/t0");
  EXPECT_EQ(leaf.failure, "open the environment: injected: create");
}

TEST(FailureTest, AReplayMustGiveWhatWasRecorded) {
  FakePolicyOptions policy = always("flaky");
  Stage stage(policy);
  auto runs = std::make_shared<int>(0);
  stage.world->fault = [runs](const std::string& operation, const std::string&) {
    if (operation == "run" && ++*runs == 3) throw SandboxError("injected");
  };
  const auto trees = stage.run(1, 1);
  const tree::Node& leaf = only_leaf(trees);
  EXPECT_EQ(leaf.outcome, Outcome::infra_failed);
  EXPECT_NE(leaf.failure.find("replay of 'flaky'"), std::string::npos) << leaf.failure;
  EXPECT_EQ(leaf.turn, 2);
}

TEST(FailureTest, AReplayMayCountTheSessionsLinesAnew) {
  Stage stage(always("syntax"));
  auto runs = std::make_shared<int>(0);
  stage.world->fault = [runs](const std::string& operation, const std::string&) {
    if (operation == "run" && ++*runs == 3) throw SandboxError("injected");
  };
  EXPECT_EQ(only_leaf(stage.run(1, 1)).outcome, Outcome::rewarded);
}

TEST(FailureTest, ReplayStartsAtTheLatestSnapshot) {
  Stage stage(always("look"));
  RuleDouble rule([](const tree::ForkContext& context) { return context.turn == 3 ? 2 : 1; });
  stage.parts.rule = &rule;
  stage.options.snapshots = KeepSnapshots::branching;
  stage.task->max_turns = 5;
  auto runs = std::make_shared<int>(0);
  stage.world->fault = [runs](const std::string& operation, const std::string&) {
    if (operation == "run" && ++*runs == 6) throw SandboxError("injected");
  };
  const auto trees = stage.run(1, 1);
  EXPECT_EQ(count_leaves(trees[0], Outcome::rewarded), 2);
  EXPECT_EQ(stage.world->opened, 1);
  EXPECT_EQ(stage.world->created, 1);
  EXPECT_LE(stage.world->runs, 3 + 2 + 2 + 1);  // at most the turn since the snapshot again
}

TEST(FailureTest, WhatCannotBeForkedGoesOnUnbranched) {
  FakePolicyOptions policy;
  policy.commands = {"look", "bg", "win"};
  Stage stage(policy);
  RuleDouble rule(
      [](const tree::ForkContext& context) { return context.forks_in_tree < 6 ? 2 : 1; });
  stage.parts.rule = &rule;
  tree::JournalWriter journal(stage.directory.path() / "journal", tree::Durability::none);
  stage.parts.journal = &journal;
  int unforked = 0;
  for (const tree::Tree& tree : stage.run(4, 4)) {
    const auto children = tree.children();
    for (size_t i = 0; i < children.size(); ++i) {
      EXPECT_FALSE(children[i].size() > 1 && tree.nodes[i].command == "bg");
      unforked += tree.nodes[i].command == "bg" ? 1 : 0;
    }
    for (int leaf : tree.leaves()) EXPECT_EQ(tree.nodes[leaf].outcome, Outcome::rewarded);
  }
  EXPECT_GT(unforked, 0);
  EXPECT_EQ(stage.policy.participants(), 0u);
  journal.flush();
  tree::JournalReader reader(stage.directory.path() / "journal");
  int refused = 0;
  while (auto event = reader.next())
    if (event->text.find("background process") != std::string::npos) {
      EXPECT_EQ(event->type, tree::EventType::fork);
      ++refused;
    }
  EXPECT_GT(refused, 0);
}

TEST(FailureTest, ARefusedForkLeavesTheRuleItsBudget) {
  FakePolicyOptions policy;
  policy.commands = {"look"};
  Stage stage(policy);
  stage.task->max_turns = 5;
  std::atomic<int> refused{0};
  stage.world->fault = [&](const std::string& operation, const std::string&) {
    if (operation == "fork" && refused++ < 2) throw common::NotForkable("not here");
  };
  const auto rule = tree::make_fork_rule("uniform", {.max_forks_per_tree = 1, .probability = 1});
  stage.parts.rule = rule.get();
  const tree::Tree tree = stage.run(1, 1).at(0);
  EXPECT_EQ(tree.leaves().size(), 2u);
  const auto children = tree.children();
  for (size_t i = 0; i < children.size(); ++i)
    if (children[i].size() > 1) {
      EXPECT_EQ(tree.nodes[i].turn, 2) << "the third turn that could be forked";
    }
}

TEST(FailureTest, AForkThatBreaksIsMadeFromTheHistory) {
  auto run = [](bool fails) {
    Stage stage;
    RuleDouble rule([](const tree::ForkContext& context) { return context.turn == 2 ? 2 : 1; });
    stage.parts.rule = &rule;
    if (fails) stage.world->fault = fail_first("fork", "", 1 << 30);
    auto trees = stage.run(2, 4);
    EXPECT_EQ(stage.world->created > 8, fails);
    for (tree::Tree& tree : trees)
      for (tree::Node& node : tree.nodes) node.fork_origin = tree::ForkOrigin::none;
    return testing::dump(trees);
  };
  EXPECT_EQ(run(true), run(false));
}

TEST(FailureTest, ABranchThatCannotBeMadeIsOneFailedLeaf) {
  Stage stage(always("look"));
  RuleDouble rule([](const tree::ForkContext& context) { return context.turn == 2 ? 2 : 1; });
  stage.parts.rule = &rule;
  auto creates = std::make_shared<int>(0);
  stage.world->fault = [creates](const std::string& operation, const std::string&) {
    if (operation == "fork") throw SandboxError("injected: fork");
    if (operation == "create" && ++*creates > 1) throw SandboxError("injected: create");
  };
  const auto trees = stage.run(1, 1);
  EXPECT_EQ(count_leaves(trees[0], Outcome::rewarded), 1);
  EXPECT_EQ(count_leaves(trees[0], Outcome::infra_failed), 1);
  for (int leaf : trees[0].leaves()) {
    const tree::Node& node = trees[0].nodes[leaf];
    if (node.outcome != Outcome::infra_failed) continue;
    EXPECT_TRUE(node.action.empty());
    EXPECT_EQ(node.path, "r0/t2/b1");
  }
}

TEST(FailureTest, AMissingRewardIsAVerifierFailure) {
  Stage stage;
  stage.world->writes_reward = false;
  const auto trees = stage.run(1, 1);
  const tree::Node& leaf = only_leaf(trees);
  EXPECT_EQ(leaf.outcome, Outcome::verifier_failed);
  EXPECT_FALSE(leaf.reward);
  EXPECT_EQ(leaf.failure, "RewardFileNotFoundError");
}

TEST(FailureTest, TheTurnLimitEndsAnEpisodeThatIsThenVerified) {
  Stage stage(always("win"));
  stage.options.max_turns = 4;
  const auto trees = stage.run(1, 1);
  EXPECT_EQ(trees[0].nodes.size(), 4u);
  EXPECT_EQ(only_leaf(trees).reward, 1.0);
}

TEST(FailureTest, AShellThatIsGoneEndsTheEpisode) {
  Stage stage(always("die"));
  const auto trees = stage.run(1, 1);
  EXPECT_EQ(trees[0].nodes.size(), 1u);
  EXPECT_EQ(only_leaf(trees).outcome, Outcome::rewarded);
}

TEST(FailureTest, ATimedOutCommandIsAnObservation) {
  Stage stage(always("slow"));
  const auto trees = stage.run(1, 1);
  EXPECT_EQ(trees[0].nodes.size(), 6u);
  EXPECT_TRUE(trees[0].nodes[0].timed_out);
  EXPECT_EQ(trees[0].nodes[0].exit_code, 137);
}

TEST(FailureTest, CommandsThatTakeTooLongInAllAreAnAgentTimeout) {
  Stage stage(always("win"));
  stage.task->agent_timeout_s = 0.0025;  // a command of the double takes a millisecond
  const auto trees = stage.run(1, 1);
  EXPECT_EQ(trees[0].nodes.size(), 3u);
  EXPECT_EQ(only_leaf(trees).outcome, Outcome::agent_timeout);
  EXPECT_FALSE(only_leaf(trees).reward);
}

TEST(FailureTest, AFullContextEndsTheEpisodeWithoutAReward) {
  FakePolicyOptions policy = always("long");
  policy.context_limit = 120;
  Stage stage(policy);
  const auto trees = stage.run(1, 1);
  const tree::Node& leaf = only_leaf(trees);
  EXPECT_EQ(leaf.outcome, Outcome::context_overflow);
  EXPECT_FALSE(leaf.reward);
  EXPECT_EQ(leaf.turn, 1);  // two observations of 48 tokens do not fit
}

TEST(FailureTest, APromptThatDoesNotFitIsALeafWithoutAnAction) {
  FakePolicyOptions policy;
  policy.context_limit = 20;
  Stage stage(policy);
  const auto trees = stage.run(1, 1);
  EXPECT_EQ(only_leaf(trees).outcome, Outcome::context_overflow);
  EXPECT_TRUE(only_leaf(trees).action.empty());
}

TEST(FailureTest, AnActionCutByItsLimitIsRunAsTyped) {
  Stage stage(always("look around"));
  auto requests = stage.requests(1, 1);
  requests[0].sampling.max_new_tokens = 3;
  const auto trees = roll_out(*stage.make_farm(), std::move(requests));
  EXPECT_EQ(trees[0].nodes[0].command, "look a");
  EXPECT_EQ(trees[0].nodes[0].observation, "look a 1");
}

TEST(FailureTest, TheBudgetStopsWithinOneActionAnEpisode) {
  Stage stage(always("look"));
  stage.task->max_turns = 100;
  tree::Ledger ledger("generated_tokens", 101);
  stage.parts.ledger = &ledger;
  RuleDouble rule(
      [](const tree::ForkContext& context) { return context.forks_in_tree < 3 ? 2 : 1; });
  stage.parts.rule = &rule;
  const auto trees = stage.run(2, 3);
  size_t live = 0;
  for (const tree::Tree& tree : trees) {
    live += tree.leaves().size();
    EXPECT_EQ(count_leaves(tree, Outcome::cancelled), static_cast<int>(tree.leaves().size()));
  }
  constexpr size_t kActionTokens = 2;  // "look", newline
  EXPECT_GE(ledger.used(), 101);
  EXPECT_LT(ledger.used(), 101 + static_cast<double>(kActionTokens * live));
}

TEST(FailureTest, CancelEndsWhatLivesAndSealsEveryTree) {
  FakePolicyOptions policy = always("look");
  Farm* farm_to_cancel = nullptr;
  std::atomic<int> generated{0};
  policy.fault = [&](const policy::GenerateRequest&, bool generate) {
    if (generate && ++generated == 10) farm_to_cancel->cancel();
  };
  Stage stage(policy);
  stage.task->max_turns = 1000000;
  stage.options.max_live = 4;
  tree::JournalWriter journal(stage.directory.path() / "journal", tree::Durability::none);
  stage.parts.journal = &journal;
  const auto farm = stage.make_farm();
  farm_to_cancel = farm.get();
  const auto trees = roll_out(*farm, stage.requests(3, 3));
  ASSERT_EQ(trees.size(), 3u);
  for (const tree::Tree& tree : trees) {
    EXPECT_EQ(tree.roots().size(), 3u);
    EXPECT_EQ(count_leaves(tree, Outcome::cancelled), 3);
  }
  EXPECT_FALSE(trees[0].nodes[0].action.empty());
  EXPECT_TRUE(trees[2].nodes[0].action.empty()) << "the third tree was not to start";
  EXPECT_EQ(stage.policy.participants(), 0u);
  journal.flush();
  const auto recovered = tree::recover_trees(stage.directory.path() / "journal");
  ASSERT_EQ(recovered.size(), 1u);  // of a wave of one tree
  EXPECT_FALSE(recovered[0].sealed);
}

TEST(FailureTest, AFarmThatGoesEndsItsEpisodes) {
  Stage stage(always("look"), 1, 1000);
  stage.task->max_turns = 1000000;
  TreeQueue out(8);
  stage.make_farm()->start(stage.requests(2, 4), out);
  EXPECT_EQ(out.size(), 2u);
  EXPECT_EQ(stage.world->live, 0);
}

TEST(FailureTest, AClosedQueueLosesTreesAndBlocksNobody) {
  Stage stage;
  TreeQueue out(1);
  out.close();
  const auto farm = stage.make_farm();
  farm->start(stage.requests(4, 2), out);
  farm->wait();
  EXPECT_EQ(farm->progress().trees_sealed, 4u);
}

TEST(FailureTest, APolicyErrorIsRetriedOnce) {
  const std::string expected = testing::dump(Stage().run(1, 4));
  for (bool generate : {false, true}) {
    FakePolicyOptions policy;
    auto times = std::make_shared<int>(0);
    policy.lockstep = false;  // a request asked again makes another round
    policy.fault = [=](const policy::GenerateRequest&, bool generates) {
      if (generates == generate && ++*times == 3) throw common::PolicyError("injected");
    };
    Stage stage(policy);
    tree::Ledger ledger("generated_tokens", 0);
    stage.parts.ledger = &ledger;
    const auto trees = stage.run(1, 4);
    EXPECT_EQ(count_leaves(trees[0], Outcome::rewarded), 4);
    EXPECT_EQ(ledger.total().infra_failures, 1u);
  }
}

TEST(FailureTest, APolicyThatKeepsFailingIsAnInfrastructureFailure) {
  FakePolicyOptions policy;
  policy.fault = [](const policy::GenerateRequest&, bool generate) {
    if (generate) throw common::PolicyError("injected");
  };
  Stage stage(policy);
  const auto trees = stage.run(1, 2);
  EXPECT_EQ(count_leaves(trees[0], Outcome::infra_failed), 2);
  EXPECT_EQ(trees[0].nodes[0].failure, "generate: injected");
  EXPECT_EQ(stage.policy.participants(), 0u);
}

TEST(FailureTest, ARuleThatThrowsCostsTheEpisodeNotTheRun) {
  Stage stage(always("look"));
  RuleDouble rule([](const tree::ForkContext&) -> int { throw std::runtime_error("bad rule"); });
  stage.parts.rule = &rule;
  const auto trees = stage.run(1, 3);
  EXPECT_EQ(count_leaves(trees[0], Outcome::infra_failed), 3);
  EXPECT_NE(trees[0].nodes[0].failure.find("bad rule"), std::string::npos);
}

TEST(FailureTest, AScriptThatThrowsCostsTheEpisodeNotTheRun) {
  Stage stage;
  auto requests = stage.requests(1, 2);
  requests[0].script = [](int root) -> Script {
    if (root == 0) throw std::runtime_error("no script");
    return []() -> std::string { throw 7; };
  };
  const auto trees = roll_out(*stage.make_farm(), std::move(requests));
  EXPECT_EQ(trees[0].nodes[0].failure, "no script");
  EXPECT_EQ(trees[0].nodes[1].failure, "unknown exception");
}

TEST(FailureTest, AClosedPolicyCancels) {
  Stage stage;
  stage.policy.close();
  const auto trees = stage.run(1, 2);
  EXPECT_EQ(count_leaves(trees[0], Outcome::cancelled), 2);
}

}  // namespace
}  // namespace espalier::rollout
