#include "app/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>

namespace espalier::app {
namespace {

TaskScore score(const std::string& family, std::vector<double> rewards, int failures = 0) {
  TaskScore s;
  s.task = family + "/1";
  s.family = family;
  s.failures = failures;
  s.rewards = std::move(rewards);
  return s;
}

TEST(PassAtK, IsTheChanceThatADrawOfKHoldsASuccess) {
  EXPECT_DOUBLE_EQ(pass_at_k(5, 0, 3), 0.0);
  EXPECT_DOUBLE_EQ(pass_at_k(5, 5, 1), 1.0);
  EXPECT_NEAR(pass_at_k(5, 2, 1), 0.4, 1e-12);
  EXPECT_NEAR(pass_at_k(5, 2, 2), 1 - 3.0 / 10, 1e-12);  // C(3,2)/C(5,2)
  EXPECT_DOUBLE_EQ(pass_at_k(3, 2, 2), 1.0);
}

TEST(Summarise, MeanAndErrorOfOneAttemptATask) {
  const EvalResult result =
      summarise({score("find", {1}), score("find", {0}), score("tar", {1}), score("tar", {0}, 1)});
  EXPECT_DOUBLE_EQ(result.mean, 0.5);
  EXPECT_DOUBLE_EQ(result.standard_error, std::sqrt(0.25 / 4));
  EXPECT_EQ(result.failures, 1u);
  ASSERT_EQ(result.pass_at_k.size(), 1u);
  EXPECT_DOUBLE_EQ(result.pass_at_k[0], 0.5);
}

TEST(Summarise, ErrorOfRepeatedAttemptsIsThatOfTheLeaderboard) {
  // p̂ = 1/2 with 4 attempts, p̂ = 1: sqrt(.25/3 + 0)/2.
  const EvalResult result = summarise({score("find", {1, 0, 1, 0}), score("tar", {1, 1, 1, 1})});
  EXPECT_DOUBLE_EQ(result.mean, 0.75);
  EXPECT_NEAR(result.standard_error, std::sqrt(0.25 / 3) / 2, 1e-12);
  ASSERT_EQ(result.pass_at_k.size(), 4u);
  EXPECT_NEAR(result.pass_at_k[1], (1 - 1.0 / 6 + 1) / 2, 1e-12);
}

TEST(Summarise, GradedRewardsHaveNoPassAtK) {
  EXPECT_TRUE(summarise({score("find", {0.5})}).pass_at_k.empty());
}

TEST(Summarise, NothingEvaluatedIsZeroNotNan) {
  const EvalResult result = summarise({});
  EXPECT_EQ(result.n, 0u);
  EXPECT_DOUBLE_EQ(result.mean, 0);
  EXPECT_DOUBLE_EQ(result.standard_error, 0);
}

TEST(Summarise, JsonHoldsFamilies) {
  const nlohmann::json json = summarise({score("find", {1}), score("tar", {0})}).to_json();
  EXPECT_DOUBLE_EQ(json["by_family"]["find"]["mean"], 1.0);
  EXPECT_DOUBLE_EQ(json["by_family"]["tar"]["mean"], 0.0);
  EXPECT_EQ(json["n"], 2);
  EXPECT_DOUBLE_EQ(json["pass_at_k"]["1"], 0.5);
}

TEST(HeldOut, TasksAreTheSameForEverySeed) {
  common::Config one, two;
  two.seed = 99;
  EXPECT_EQ(held_out_tasks(one), held_out_tasks(two));
  EXPECT_EQ(held_out_tasks(one).size(), static_cast<size_t>(one.eval.n));
}

}  // namespace
}  // namespace espalier::app
