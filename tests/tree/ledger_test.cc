#include "tree/ledger.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "common/error.h"

namespace espalier::tree {
namespace {

Spend distinct() {
  Spend spend;
  spend.generated_tokens = 1;
  spend.prefill_tokens = 2;
  spend.cached_prefill_tokens = 3;
  spend.env_steps = 4;
  spend.forks = 5;
  spend.leaves = 6;
  spend.verifier_runs = 7;
  spend.selector_calls = 8;
  spend.infra_failures = 9;
  spend.learner_tokens = 10;
  spend.learner_tokens_linear = 11;
  spend.sandbox_seconds = 12.5;
  spend.attended_tokens = 13;
  spend.selector_tokens = 14;
  spend.selector_failures = 15;
  spend.trained_tokens = 16;
  spend.trained_attended = 17;
  spend.selector_cost = 0.25;
  return spend;
}

const std::map<std::string, double> kDistinct = {{"generated_tokens", 1},
                                                 {"prefill_tokens", 2},
                                                 {"cached_prefill_tokens", 3},
                                                 {"env_steps", 4},
                                                 {"forks", 5},
                                                 {"leaves", 6},
                                                 {"verifier_runs", 7},
                                                 {"selector_calls", 8},
                                                 {"infra_failures", 9},
                                                 {"learner_tokens", 10},
                                                 {"learner_tokens_linear", 11},
                                                 {"sandbox_seconds", 12.5},
                                                 {"attended_tokens", 13},
                                                 {"selector_tokens", 14},
                                                 {"selector_failures", 15},
                                                 {"trained_tokens", 16},
                                                 {"trained_attended", 17},
                                                 {"selector_cost", 0.25},
                                                 // 2·100·(1 + 2) + 4·10·13
                                                 {"rollout_flops", 1120},
                                                 // 6·100·16 + 12·10·17
                                                 {"learner_flops", 11640},
                                                 {"model_flops", 12760}};
const ModelCost kModel = {.parameters = 100, .attention_width = 10};

TEST(Ledger, UnitsAreTheFields) {
  EXPECT_EQ(distinct().units(kModel), kDistinct);
  Spend twice = distinct();
  twice += distinct();
  for (const auto& [name, value] : twice.units(kModel))
    EXPECT_EQ(value, 2 * kDistinct.at(name)) << name;
  EXPECT_EQ((twice - distinct()).units(kModel), kDistinct);
}

TEST(Ledger, StopsAtItsBudgetInAnyUnit) {
  for (const auto& [unit, value] : kDistinct) {
    Ledger ledger(unit, 3 * value, kModel);
    ledger.add(distinct());
    ledger.add(distinct());
    EXPECT_EQ(ledger.used(), 2 * value);
    EXPECT_FALSE(ledger.exhausted()) << unit;
    ledger.add(distinct());
    EXPECT_TRUE(ledger.exhausted()) << unit;
    EXPECT_EQ(ledger.overshoot(), 0) << unit;
    ledger.add(distinct());
    EXPECT_EQ(ledger.overshoot(), value) << unit;
  }
  Ledger unlimited("env_steps", 0);
  unlimited.add(distinct());
  EXPECT_FALSE(unlimited.exhausted());
}

TEST(Ledger, WhatTrainingOnTheNewestTokensWillTakeCountsBeforeItIsSpent) {
  const ModelCost model{.parameters = 10, .attention_width = 1};
  Ledger ledger("model_flops", 1000, model);
  ledger.expect_training(2);
  const Spend some{.generated_tokens = 2, .prefill_tokens = 1, .attended_tokens = 5};
  ledger.add(some);  // 60 + 20; training twice will take 360 + 120
  EXPECT_DOUBLE_EQ(ledger.used(), 80);
  EXPECT_FALSE(ledger.exhausted());
  ledger.add({.generated_tokens = 4});  // 80; and 480
  EXPECT_TRUE(ledger.exhausted());
  const Spend so_far = ledger.total();
  ledger.add({.trained_tokens = 10, .trained_attended = 10});  // less than was expected
  ledger.trained(so_far);
  EXPECT_DOUBLE_EQ(ledger.used(), 160 + 600 + 120);
  EXPECT_FALSE(ledger.exhausted());
  Ledger unit("learner_tokens", 4);
  unit.add(some);
  EXPECT_FALSE(unit.exhausted());
  unit.expect_training(3);
  EXPECT_FALSE(unit.exhausted()) << "three, whatever the passes";
  unit.add({.prefill_tokens = 1});
  EXPECT_TRUE(unit.exhausted());
}

TEST(Ledger, WrongBudgetsAreErrors) {
  try {
    Ledger ledger("tokens", 1);
    FAIL();
  } catch (const common::ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("generated_tokens"), std::string::npos);
  }
  EXPECT_THROW(Ledger("env_steps", -1), common::ConfigError);
}

TEST(Ledger, SavesAndRestoresExactly) {
  Ledger ledger("env_steps", 100);
  Spend spend = distinct();
  spend.generated_tokens = (uint64_t{1} << 60) + 1;  // beyond a double's integers
  spend.sandbox_seconds = 0.1 + 0.2;
  ledger.add(spend);
  Ledger other("env_steps", 100);
  other.add(distinct());
  other.restore(ledger.save());
  EXPECT_EQ(other.total().generated_tokens, spend.generated_tokens);
  EXPECT_EQ(other.total().units(), ledger.total().units());
  EXPECT_EQ(other.save(), ledger.save());
  for (const char* state : {"", "[]", "{}", R"({"forks":"x"})"})
    EXPECT_THROW(other.restore(state), common::StoreError) << state;
  EXPECT_EQ(other.save(), ledger.save()) << "a refused state changes nothing";
}

TEST(Ledger, CountsFromManyThreads) {
  Ledger ledger("forks", 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) ledger.add(distinct());
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ledger.used(), 4 * 1000 * 5);
  EXPECT_EQ(ledger.total().sandbox_seconds, 4 * 1000 * 12.5);
}

}  // namespace
}  // namespace espalier::tree
