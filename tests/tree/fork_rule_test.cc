#include "tree/fork_rule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "common/error.h"
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

ForkContext at(int turn, double entropy, uint64_t key = 1) {
  ForkContext context;
  context.turn = turn;
  context.first_entropy = entropy;
  context.turns_since_fork = 1000;
  context.key = {key};
  return context;
}

/// 0, 1, … 99 in a scrambled order.
double scrambled(int i) { return (i * 37) % 100; }

ForkRuleOptions with_model() {
  ForkRuleOptions options;
  options.selector.ask = [](const std::string&) { return std::string("{}"); };
  return options;
}

TEST(ForkRule, NamesAndErrors) {
  EXPECT_THROW(make_fork_rule("entropy", {}), common::ConfigError);
  EXPECT_THROW(make_fork_rule("uniform", {.probability = 1.5}), common::ConfigError);
  EXPECT_THROW(make_fork_rule("online_entropy", {.quantile = -0.1}), common::ConfigError);
  EXPECT_THROW(make_fork_rule("online_entropy", {.branches = 0}), common::ConfigError);
  EXPECT_THROW(make_fork_rule("online_entropy", {.consecutive_penalty = 2}), common::ConfigError);
  struct Declared {
    bool stopping_time, exchangeable, after, back;
  };
  const std::map<std::string, Declared> declared = {{"none", {true, true, false, false}},
                                                    {"uniform", {true, true, false, false}},
                                                    {"online_entropy", {true, true, false, false}},
                                                    {"sampled_entropy", {true, false, true, false}},
                                                    {"voi", {true, true, false, false}},
                                                    {"topk", {false, false, false, true}},
                                                    {"ucb", {false, false, false, true}},
                                                    {"pivot", {false, false, false, true}},
                                                    {"meta_agent", {false, false, false, true}}};
  EXPECT_EQ(fork_rule_names().size(), declared.size());
  for (const std::string& name : fork_rule_names()) {
    const auto rule = make_fork_rule(name, with_model());
    EXPECT_EQ(rule->name(), name);
    EXPECT_EQ(rule->stopping_time(), declared.at(name).stopping_time) << name;
    EXPECT_EQ(rule->exchangeable(), declared.at(name).exchangeable) << name;
    EXPECT_EQ(rule->decides_after_sampling(), declared.at(name).after) << name;
    EXPECT_EQ(rule->looks_back(), declared.at(name).back) << name;
  }
}

TEST(ForkRule, NoneNeverForks) {
  const auto rule = make_fork_rule("none", {});
  for (int i = 0; i < 200; ++i) EXPECT_EQ(rule->decide(at(1 + i % 5, i)), 1);
}

TEST(ForkRule, UniformForksAtItsRateAndByKeyAlone) {
  const auto rule = make_fork_rule("uniform", {.branches = 3, .probability = 0.3});
  const auto again = make_fork_rule("uniform", {.branches = 3, .probability = 0.3});
  int forks = 0;
  const int draws = 20000;
  for (int i = 0; i < draws; ++i) {
    const ForkContext context = at(2, 0, common::derive_key(1, "task", std::to_string(i)).value);
    const int children = rule->decide(context);
    EXPECT_TRUE(children == 1 || children == 3);
    EXPECT_EQ(again->decide(context), children);
    forks += children == 3;
  }
  EXPECT_NEAR(forks / static_cast<double>(draws), 0.3, 5 * std::sqrt(0.3 * 0.7 / draws));
}

TEST(ForkRule, BudgetAndSpacing) {
  const ForkRuleOptions options{
      .branches = 2, .max_forks_per_tree = 3, .probability = 1.0, .min_turns_between = 2};
  const auto rule = make_fork_rule("uniform", options);
  ForkContext context = at(3, 0);
  EXPECT_EQ(rule->decide(context), 2);
  context.forks_in_tree = 3;
  EXPECT_EQ(rule->decide(context), 1);
  context = at(3, 0);
  context.turns_since_fork = 1;
  EXPECT_EQ(rule->decide(context), 1);
  context.turns_since_fork = 2;
  EXPECT_EQ(rule->decide(context), 2);
  EXPECT_EQ(rule->decide(at(0, 0)), 1) << "the roots branch there already";
}

TEST(OnlineEntropy, NothingBeforeFiftyObservations) {
  const auto rule = make_fork_rule("online_entropy", {.quantile = 0});
  for (int i = 0; i < 50; ++i) EXPECT_EQ(rule->decide(at(1, i)), 1) << i;
  EXPECT_EQ(rule->decide(at(1, 1e9)), 2);
}

TEST(OnlineEntropy, ForksAboveTheRunningQuantile) {
  const auto rule = make_fork_rule("online_entropy", {.quantile = 0.7});
  for (int i = 0; i < 100; ++i) rule->decide(at(1, scrambled(i)));
  // Window 0 … 99: threshold sorted[⌊0.7·99⌋] = 69. Each decision then joins the window.
  EXPECT_EQ(rule->decide(at(1, 69.0)), 1);
  EXPECT_EQ(rule->decide(at(1, 69.5)), 2);
  EXPECT_EQ(rule->decide(at(0, 99.0)), 1) << "never at turn 0";
}

TEST(OnlineEntropy, EqualEntropiesNeverFork) {
  const auto rule = make_fork_rule("online_entropy", {.quantile = 0.5});
  for (int i = 0; i < 300; ++i) EXPECT_EQ(rule->decide(at(1, 0.25)), 1);
}

TEST(OnlineEntropy, TurnZeroAndNonFiniteStayOutOfTheWindow) {
  const auto rule = make_fork_rule("online_entropy", {.quantile = 1.0});
  for (int i = 0; i < 60; ++i) rule->decide(at(1, 1.0));
  const std::string before = rule->save();
  EXPECT_EQ(rule->decide(at(0, 9.0)), 1);
  EXPECT_EQ(rule->decide(at(2, std::numeric_limits<double>::quiet_NaN())), 1);
  EXPECT_EQ(rule->decide(at(2, std::numeric_limits<double>::infinity())), 1);
  EXPECT_EQ(rule->save(), before);
}

TEST(OnlineEntropy, ForgetsWhatIsOlderThanItsWindow) {
  const auto rule = make_fork_rule("online_entropy", {.quantile = 1.0});
  for (int i = 0; i < 100; ++i) rule->decide(at(1, 1000.0 + i));
  for (int i = 0; i < 3999; ++i) rule->decide(at(1, 1.0));
  EXPECT_EQ(rule->decide(at(1, 2.0)), 1) << "1099 is still in the window";
  EXPECT_EQ(rule->decide(at(1, 3.0)), 2) << "the window: 1.0 and 2.0";
}

TEST(OnlineEntropy, SavedStateGoesOnAlike) {
  ForkRuleOptions options{.quantile = 0.6};
  const auto rule = make_fork_rule("online_entropy", options);
  common::Rng rng({5});
  for (int i = 0; i < 4500; ++i) rule->decide(at(1, rng.uniform() / 3));
  const auto restored = make_fork_rule("online_entropy", options);
  restored->decide(at(1, 0.5));  // overwritten
  restored->restore(rule->save());
  EXPECT_EQ(restored->save(), rule->save());
  for (int i = 0; i < 2000; ++i) {
    const ForkContext context = at(1, rng.uniform() / 3);
    ASSERT_EQ(restored->decide(context), rule->decide(context));
  }
  EXPECT_EQ(restored->save(), rule->save());
}

TEST(OnlineEntropy, BranchingsInARowArePenalised) {
  const auto rule = make_fork_rule("online_entropy", {.quantile = 0.7, .consecutive_penalty = 0.5});
  for (int i = 0; i < 100; ++i) rule->decide(at(1, scrambled(i)));
  ForkContext context = at(3, 90.0);
  EXPECT_EQ(rule->decide(context), 2);
  context.consecutive_forks = 1;
  EXPECT_EQ(rule->decide(context), 1) << "90·½ is below the threshold";
  context.first_entropy = 150;
  EXPECT_EQ(rule->decide(context), 2);
  context.consecutive_forks = 2;
  EXPECT_EQ(rule->decide(context), 1);
}

/// One tree of a task with so many successes and failures, `tokens` an action, two turns each.
Tree outcome_tree(const std::string& task, int successes, int failures, size_t tokens = 3) {
  Tree tree;
  tree.task = task;
  tree.family = task.substr(0, task.find('/'));
  for (int i = 0; i < successes + failures; ++i) {
    Node first, second;
    first.branch = i;
    first.action.assign(tokens, 1);
    second = first;
    second.turn = 1;
    second.parent = static_cast<int>(tree.nodes.size());
    second.reward = i < successes ? 1 : 0;
    tree.nodes.push_back(first);
    tree.nodes.push_back(second);
  }
  return tree;
}

TEST(OnlineEntropy, HardTasksGetMoreBranches) {
  const auto rule =
      make_fork_rule("online_entropy", {.branches = 2, .branches_hard = 4, .quantile = 0.7});
  for (int i = 0; i < 100; ++i) rule->decide(at(1, scrambled(i)));
  ForkContext context = at(3, 1000.0);
  context.task = "find/1";
  context.family = "find";
  EXPECT_EQ(rule->decide(context), 2) << "nothing is known";
  const std::vector<Tree> step = {outcome_tree("find/1", 0, 60), outcome_tree("grep/1", 30, 30)};
  rule->observe(step);
  EXPECT_EQ(rule->decide(context), 4);
  context.task = "grep/1";
  context.family = "grep";
  EXPECT_EQ(rule->decide(context), 2);
  const auto restored =
      make_fork_rule("online_entropy", {.branches = 2, .branches_hard = 4, .quantile = 0.7});
  restored->restore(rule->save());
  EXPECT_EQ(restored->save(), rule->save());
}

ForkContext task_at(const std::string& task, int turn, double entropy) {
  ForkContext context = at(turn, entropy);
  context.task = task;
  context.family = task.substr(0, task.find('/'));
  return context;
}

TEST(Voi, NothingBeforeAStepIsOver) {
  const auto rule = make_fork_rule("voi", {.quantile = 0});
  for (int i = 0; i < 200; ++i) EXPECT_EQ(rule->decide(task_at("find/1", 1, i)), 1);
}

TEST(Voi, OpenOutcomesAndShortRestsAreWorthMore) {
  const auto rule = make_fork_rule("voi", {.quantile = 0.5});
  rule->observe(
      std::vector<Tree>{outcome_tree("open/1", 100, 100), outcome_tree("shut/1", 0, 200)});
  // Scores of open/1 at turn 1: H·¼/3 for H = 0 … 99; the threshold is at H ≈ 50.
  for (int i = 0; i < 100; ++i) rule->decide(task_at("open/1", 1, scrambled(i)));
  EXPECT_EQ(rule->decide(task_at("open/1", 1, 40)), 1);
  EXPECT_EQ(rule->decide(task_at("open/1", 1, 60)), 2);
  EXPECT_EQ(rule->decide(task_at("shut/1", 1, 60)), 1) << "p̂(1 − p̂) is small";
  ForkContext early = task_at("open/1", 0, 1e9);
  EXPECT_EQ(rule->decide(early), 1) << "never at turn 0";
  // The same entropy with twice as many tokens to come is worth half.
  const auto costly = make_fork_rule("voi", {.quantile = 0.5});
  costly->observe(std::vector<Tree>{outcome_tree("open/1", 100, 100, 3)});
  for (int i = 0; i < 100; ++i) costly->decide(task_at("open/1", 1, scrambled(i)));
  costly->observe(std::vector<Tree>(9, outcome_tree("open/1", 100, 100, 30)));
  EXPECT_EQ(costly->decide(task_at("open/1", 1, 60)), 1);
}

TEST(Voi, SavedStateGoesOnAlike) {
  const ForkRuleOptions options{.branches_hard = 4, .quantile = 0.6};
  const auto rule = make_fork_rule("voi", options), restored = make_fork_rule("voi", options);
  std::vector<Tree> step;
  for (uint64_t i = 0; i < 8; ++i) step.push_back(testing::random_tree(i));
  rule->observe(step);
  common::Rng rng({7});
  for (int i = 0; i < 300; ++i)
    rule->decide(task_at(step[i % 8].task, 1 + i % 4, rng.uniform() / 3));
  restored->restore(rule->save());
  EXPECT_EQ(restored->save(), rule->save());
  for (int i = 0; i < 300; ++i) {
    const ForkContext context = task_at(step[i % 8].task, 1 + i % 4, rng.uniform() / 3);
    ASSERT_EQ(restored->decide(context), rule->decide(context));
  }
  EXPECT_THROW(restored->restore("{}"), common::StoreError);
  EXPECT_THROW(restored->restore(make_fork_rule("online_entropy", {})->save()), common::StoreError);
}

TEST(SampledEntropy, DecidesFromTheFirstTwentyTokens) {
  const auto rule = make_fork_rule("sampled_entropy", {.branches = 3, .quantile = 0.7});
  std::vector<float> entropies(30, 0);
  for (int i = 0; i < 100; ++i) {
    std::fill_n(entropies.begin(), 20, static_cast<float>(scrambled(i)));
    EXPECT_EQ(rule->decide(at(1, 1e9)), 1);
    rule->decide_sampled(at(1, 0), entropies);
  }
  std::fill_n(entropies.begin(), 20, 80.0F);
  EXPECT_EQ(rule->decide_sampled(at(1, 0), entropies), 3);
  std::fill_n(entropies.begin(), 20, 10.0F);
  std::fill(entropies.begin() + 20, entropies.end(), 1e6F);
  EXPECT_EQ(rule->decide_sampled(at(1, 0), entropies), 1) << "later tokens do not count";
  EXPECT_EQ(rule->decide_sampled(at(1, 0), {}), 1);
  const std::vector<float> high = {90.0F, 90.0F};
  EXPECT_EQ(rule->decide_sampled(at(0, 0), high), 1) << "never at turn 0";
  EXPECT_EQ(rule->decide_sampled(at(1, 0), high), 3);
}

TEST(ForkRule, WrongStateIsAnError) {
  const auto entropy = make_fork_rule("online_entropy", {});
  for (const char* state :
       {"", "nonsense", "{}", R"({"rule":"other","window":[]})",
        R"({"rule":"online_entropy","window":["a"]})", R"({"rule":"online_entropy","window":[]})"})
    EXPECT_THROW(entropy->restore(state), common::StoreError) << state;
  for (const char* name : {"none", "uniform"}) {
    const auto rule = make_fork_rule(name, {});
    rule->restore(rule->save());
    EXPECT_THROW(rule->restore(entropy->save()), common::StoreError);
  }
}

}  // namespace
}  // namespace espalier::tree
