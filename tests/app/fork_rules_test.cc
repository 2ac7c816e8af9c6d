// Every fork rule in training runs: accepted, really executed, and what is doubtful said.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "app/mini_run.h"
#include "common/http_server.h"
#include "tree/journal.h"
#include "tree/store.h"

namespace espalier {
namespace {

using namespace test;
using espalier::testing::each_request;
using espalier::testing::HttpServer;
using espalier::testing::ServedConnection;
using espalier::testing::ServedRequest;
using ::testing::HasSubstr;

/// A run of a rule on a scratch directory of its own.
class RuleRun {
 public:
  explicit RuleRun(const std::string& rule, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"algorithm.tree.fork_rule=" + rule,
                                          "algorithm.tree.quantile=0.2",
                                          "data.train_batch_size=3",
                                          "rollout.n=4",
                                          "trainer.total_steps=2",
                                          "trainer.save_freq=0",
                                          "eval.n=0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    done_ = test::run(train(scratch_.path(), arguments));
    EXPECT_EQ(done_.exit_code, 0) << rule << ": " << done_.output;
    for (const fs::path& shard : tree::list_shards(run()))
      for (tree::Tree& tree : tree::read_trees(shard)) trees_.push_back(std::move(tree));
  }

  fs::path run() const { return scratch_.path() / "mini"; }
  const std::string& output() const { return done_.output; }
  json summary() const { return json::parse(common::read_file(run() / "summary.json")); }
  const std::vector<tree::Tree>& trees() const { return trees_; }

  size_t branchings() const {
    size_t count = 0;
    for (const tree::Tree& tree : trees_)
      for (const auto& children : tree.children()) count += children.size() > 1 ? 1 : 0;
    return count;
  }
  size_t nodes_of(tree::ForkOrigin origin) const {
    size_t count = 0;
    for (const tree::Tree& tree : trees_)
      for (const tree::Node& node : tree.nodes) count += node.fork_origin == origin ? 1 : 0;
    return count;
  }
  /// Fork events whose detail has the key.
  size_t fork_events_with(const std::string& key) const {
    size_t count = 0;
    tree::JournalReader reader(run() / "journal");
    while (const auto event = reader.next())
      if (event->type == tree::EventType::fork) count += json::parse(event->text).contains(key);
    return count;
  }

 private:
  common::TempDir scratch_;
  Finished done_;
  std::vector<tree::Tree> trees_;
};

TEST(ForkRules, NoneNeverBranches) {
  const RuleRun run("none");
  EXPECT_EQ(run.branchings(), 0u);
  EXPECT_EQ(run.trees().size(), 6u);
  EXPECT_TRUE(run.summary()["warnings"].empty());
}

TEST(ForkRules, ThoseThatDecideBeforeAnActionWarnOfNothing) {
  for (const char* rule : {"uniform", "online_entropy", "voi"}) {
    const RuleRun run(rule, {"trainer.total_steps=4"});  // voi waits for a step and for 50 scores
    EXPECT_GT(run.branchings(), 0u) << rule;
    EXPECT_EQ(run.fork_events_with("looked_back"), 0u) << rule;
    EXPECT_TRUE(run.summary()["warnings"].empty()) << rule;
    for (const tree::Tree& tree : run.trees())
      for (const tree::Node& node : tree.nodes)
        EXPECT_TRUE(node.fork_rule.empty() || node.fork_rule == rule) << node.fork_rule;
  }
}

TEST(ForkRules, SampledEntropyBranchesBesideTheSampledAction) {
  const RuleRun run("sampled_entropy");
  EXPECT_GT(run.branchings(), 0u);
  EXPECT_THAT(run.output(), HasSubstr("not exchangeable"));
  EXPECT_THAT(common::read_file(run.run() / "report.html"), HasSubstr("not exchangeable"));
}

TEST(ForkRules, ThoseThatLookBackBranchLiveWhereTheNodeIsKeptAndWarn) {
  for (const char* rule : {"topk", "ucb", "pivot"}) {
    const RuleRun run(rule, {"rollout.max_kept=64"});
    EXPECT_GT(run.branchings(), 0u) << rule;
    EXPECT_GT(run.fork_events_with("looked_back"), 0u) << rule;
    EXPECT_GT(run.nodes_of(tree::ForkOrigin::live), 0u) << rule;
    EXPECT_THAT(run.output(), HasSubstr("before a fork are biased")) << rule;
    EXPECT_THAT(run.summary()["warnings"].dump(), HasSubstr("biased")) << rule;
    EXPECT_THAT(common::read_file(run.run() / "report.html"), HasSubstr("are biased")) << rule;
  }
}

TEST(ForkRules, WhatIsNotKeptIsMadeAgainByValue) {
  const RuleRun run("topk", {"rollout.max_kept=0"});
  EXPECT_GT(run.nodes_of(tree::ForkOrigin::value), 0u);
  EXPECT_EQ(run.nodes_of(tree::ForkOrigin::live), 0u);
}

TEST(ForkRules, AnEstimatorThatDoesNotCreditThePrefixIsNotWarnedOf) {
  const RuleRun run("pivot", {"algorithm.adv_estimator=shepherd"});
  EXPECT_THAT(run.summary()["warnings"].dump(), Not(HasSubstr("before a fork")));
}

TEST(ForkRules, MetaAgentsModelPicksTurnsAndItsActionsAreMasked) {
  std::mutex mutex;
  size_t asked = 0;
  const HttpServer server(each_request([&](ServedConnection& to, const ServedRequest& request) {
    {
      std::lock_guard lock(mutex);
      ++asked;
    }
    EXPECT_EQ(json::parse(request.body)["model"], "judge");
    to.answer(200,
              json{{"choices", {{{"message", {{"content", R"({"turn": 1, "action": "ls -a"})"}}}}}},
                   {"usage", {{"prompt_tokens", 100}, {"completion_tokens", 10}}}}
                  .dump());
  }));
  const RuleRun run("meta_agent", {"algorithm.tree.selector.url=unix:" + server.socket(),
                                   "algorithm.tree.selector.model=judge",
                                   "algorithm.tree.selector.price_prompt=2",
                                   "algorithm.tree.branches=3", "deterministic=true"});
  EXPECT_GT(asked, 0u);
  const json spent = run.summary()["budget"];
  EXPECT_EQ(spent["selector_calls"], asked);
  EXPECT_EQ(spent["selector_tokens"], 110 * asked);
  EXPECT_NEAR(spent["selector_cost"], 2e-4 * static_cast<double>(asked), 1e-9);
  size_t injected = 0;
  for (const tree::Tree& tree : run.trees())
    for (const tree::Node& node : tree.nodes) {
      const bool masked = std::ranges::count(node.loss_mask, 0) > 0;
      EXPECT_EQ(masked, node.injected) << node.path;
      if (!node.injected) continue;
      ++injected;
      EXPECT_EQ(node.command, "ls -a");
      EXPECT_EQ(node.sampling_key, 0u);
    }
  EXPECT_GT(injected, 0u);
  const json last = metrics(run.run()).back();
  EXPECT_EQ(last["budget/selector_tokens"], 110 * asked);
}

}  // namespace
}  // namespace espalier
