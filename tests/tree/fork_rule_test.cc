#include "tree/fork_rule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/error.h"

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

TEST(ForkRule, NamesAndErrors) {
  EXPECT_EQ(fork_rule_names(), (std::vector<std::string>{"none", "uniform", "online_entropy"}));
  EXPECT_THROW(make_fork_rule("entropy", {}), common::ConfigError);
  EXPECT_THROW(make_fork_rule("uniform", {.probability = 1.5}), common::ConfigError);
  EXPECT_THROW(make_fork_rule("online_entropy", {.quantile = -0.1}), common::ConfigError);
  EXPECT_THROW(make_fork_rule("online_entropy", {.branches = 0}), common::ConfigError);
  for (const std::string& name : fork_rule_names()) {
    const auto rule = make_fork_rule(name, {});
    EXPECT_EQ(rule->name(), name);
    EXPECT_TRUE(rule->stopping_time());
    EXPECT_TRUE(rule->exchangeable());
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

TEST(ForkRule, WrongStateIsAnError) {
  const auto entropy = make_fork_rule("online_entropy", {});
  for (const char* state : {"", "nonsense", "{}", R"({"rule":"other","window":[]})",
                            R"({"rule":"online_entropy","window":["a"]})"})
    EXPECT_THROW(entropy->restore(state), common::StoreError) << state;
  for (const char* name : {"none", "uniform"}) {
    const auto rule = make_fork_rule(name, {});
    rule->restore(rule->save());
    EXPECT_THROW(rule->restore(entropy->save()), common::StoreError);
  }
}

}  // namespace
}  // namespace espalier::tree
