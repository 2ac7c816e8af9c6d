#include "common/result.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "common/error.h"

namespace espalier::common {
namespace {

TEST(Result, HoldsAValue) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(3));
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.error(), nullptr);
  EXPECT_EQ(*result.value(), 3);
  EXPECT_EQ(*std::move(result).get(), 3);
}

TEST(Result, RethrowsTheErrorItHolds) {
  Result<int> result(std::make_exception_ptr(SandboxError("gone")));
  EXPECT_FALSE(result.ok());
  EXPECT_NE(result.error(), nullptr);
  EXPECT_THROW(result.value(), SandboxError);
  EXPECT_THROW(std::move(result).get(), SandboxError);
}

TEST(Await, WaitsForAnotherThread) {
  std::thread thread;
  const int value = await<int>(
      [&](Completion<int> done) { thread = std::thread([done] { done(Result<int>(5)); }); });
  thread.join();
  EXPECT_EQ(value, 5);
}

TEST(Await, TakesAnImmediateErrorOut) {
  EXPECT_THROW(
      await<Done>([](Completion<Done> done) { done(std::make_exception_ptr(PolicyError("no"))); }),
      PolicyError);
}

TEST(Check, AbortsWithConditionPlaceAndMessage) {
  ESPALIER_CHECK(1 + 1 == 2, "never");
  EXPECT_DEATH(ESPALIER_CHECK(1 + 1 == 3, "sums"), "result_test.cc:.*sums.*1 \\+ 1 == 3");
}

TEST(Errors, AreOfOneFamily) {
  EXPECT_THROW(throw NotForkable("x"), SandboxError);
  EXPECT_THROW(throw ConfigError("x"), Error);
}

}  // namespace
}  // namespace espalier::common
